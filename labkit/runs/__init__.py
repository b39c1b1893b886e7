"""A run: its recipe, its folder, and the pipeline that makes it."""
