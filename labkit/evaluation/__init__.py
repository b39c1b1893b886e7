"""What a model can do, measured: a file for each thing that is measured."""
