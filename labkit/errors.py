"""The one error that a user is meant to read."""


class LabError(ValueError):
    """Bad input, said in words: the message names the input and how to mend it.

    The command line prints the message alone, without a traceback, and ends with exit code 2.
    """
