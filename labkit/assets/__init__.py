"""The report's style sheet and script."""
