"""The whole recipe behind a chat model, small enough to run, measure and look at on one laptop."""

__version__ = "0.1.0"
