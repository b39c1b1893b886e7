"""Preferences: who chooses between two answers, and what their choices are worth."""
