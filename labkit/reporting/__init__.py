"""What is said of a run: measures in words, plots, tables, the report page."""
