"""What a user is meant to read: the one error, and counts in words."""


class LabError(ValueError):
    """Bad input, said in words: the message names the input and how to mend it.

    The command line prints the message alone, without a traceback, and ends with exit code 2.
    """


def count_with_noun(number: int, noun: str) -> str:
    """count_with_noun(1, "row") -> "1 row", count_with_noun(1234, "row") -> "1,234 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
