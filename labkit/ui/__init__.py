"""The app's tabs and the viewers that it shares with the notebooks."""
