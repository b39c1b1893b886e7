"""Counts in words."""

from labkit.errors import count_with_noun


def test_of_one_there_is_no_plural():
    assert [count_with_noun(n, "row") for n in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]
