"""The exercises of notebook 01, text."""

from __future__ import annotations

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Text"


def bytes_in_utf8() -> int:
    """Four letters and two spaces of one byte each, one character of two bytes, one of three, one of four."""
    return len("na\u00efve \u6570 \U0001f642".encode())


def characters_after_cleaning() -> int:
    """R\u00e9sum\u00e9, a line end and an empty line, Tom, a line end, Anna: 6 + 2 + 3 + 1 + 4."""
    return len("R\u00e9sum\u00e9\n\nTom\nAnna")


def words_of_a_near_duplicate() -> int:
    """w words have S = w - 4 shingles; 5 change, so S - 5 are shared and S + 5 are there: (S - 5) / (S + 5) >= 0.8."""
    words = 10
    while (words - 4 - 5) / (words - 4 + 5) < 0.8:
        words += 1
    return words


def signature(members: set[int], slopes: list[int], offsets: list[int], prime: int) -> list[int]:
    """For each hash the smallest value over all members."""
    return [
        min((slope * member + offset) % prime for member in members)
        for slope, offset in zip(slopes, offsets, strict=True)
    ]


def s_curve(similarity: float, bands: int, rows: int) -> float:
    """A band agrees with probability similarity ** rows; a pair is missed where none of the bands does."""
    return 1 - (1 - similarity**rows) ** bands


def reported_loss(no_copy: float, copied: float) -> float:
    """The mean over all held-out texts: a fifth of them are copied."""
    return 0.8 * no_copy + 0.2 * copied


EXERCISES = (
    Exercise(
        "01.1",
        'How many bytes has "na\u00efve \u6570 \U0001f642" in UTF-8?',
        bytes_in_utf8,
        Value(),
        (
            Mistake(
                "characters for bytes", 9, "That is the number of characters. Three of them take more than a byte."
            ),
            Mistake(
                "UTF-16",
                20,
                "That is UTF-16, with two or four bytes a character. In UTF-8 a letter of English takes one.",
            ),
            Mistake(
                "accent apart",
                16,
                "One too many: the \u00ef is one code point here, below 2,048. How many bytes is that?",
            ),
            Mistake(
                "emoji of three", 14, "One is missing: the emoji is above 65,536, and so needs more than three bytes."
            ),
        ),
    ),
    Exercise(
        "01.2",
        'How many characters has clean_text("\\x07Re\\u0301sume\\u0301\\t \\r\\n\\r\\n\\r\\nTom\\x0cAn\\x00na\\x00")?',
        characters_after_cleaning,
        Value(),
        (
            Mistake("accents apart", 18, "The two accents still count by themselves: what does NFC make of them?"),
            Mistake("blank lines kept", 17, "One line end too many: how many blank lines in a row are left?"),
            Mistake(
                "form feed dropped",
                15,
                "One is missing. A form feed ends a page: what stands between Tom and Anna afterwards?",
            ),
            Mistake(
                "control characters kept", 19, "Three characters still count that are not seen: which rule drops them?"
            ),
        ),
    ),
    Exercise(
        "01.3",
        "How many words must a text have at least, so that it is a near duplicate (Jaccard index of 0.8 or more) of "
        "itself with one word in the middle changed?",
        words_of_a_near_duplicate,
        Value(),
        (
            Mistake(
                "shingles for words", 45, "That many shingles are needed. How many words have so many runs of five?"
            ),
            Mistake(
                "union forgotten",
                29,
                "You have compared with the shingles of one text. The union holds the changed ones of both.",
            ),
            Mistake(
                "one shingle a word",
                13,
                "One word stands in more than one run of five: how many runs change with it?",
            ),
        ),
    ),
    Exercise(
        "01.4",
        "Write signature(members, slopes, offsets, prime): for each slope and offset the smallest of "
        "(slope * member + offset) % prime over all members, as a list.",
        signature,
        Function(lambda: [({1, 4, 6}, [3, 5, 2], [1, 0, 4], 7), ({9}, [2, 3], [5, 1], 11), ({2, 3, 8}, [4], [2], 13)]),
        (
            Mistake(
                "maximum for minimum",
                lambda members, slopes, offsets, prime: [
                    max((a * x + b) % prime for x in members) for a, b in zip(slopes, offsets, strict=True)
                ],
                "The largest hash is taken here. It would do as well, but labkit, and the paper, take the other end.",
            ),
            Mistake(
                "a minimum for each member",
                lambda members, slopes, offsets, prime: [
                    min((a * x + b) % prime for a, b in zip(slopes, offsets, strict=True)) for x in sorted(members)
                ],
                "There is a minimum for each member here. It has to be one for each hash, over all members.",
            ),
            Mistake(
                "modulo forgotten",
                lambda members, slopes, offsets, prime: [
                    min(a * x + b for x in members) for a, b in zip(slopes, offsets, strict=True)
                ],
                "Without the remainder the smallest member always wins: nothing is mixed.",
            ),
            Mistake(
                "smallest member first",
                lambda members, slopes, offsets, prime: [
                    (a * min(members) + b) % prime for a, b in zip(slopes, offsets, strict=True)
                ],
                "This hashes the smallest member. Hash all of them first, then take the smallest hash.",
            ),
        ),
    ),
    Exercise(
        "01.5",
        "Write s_curve(similarity, bands, rows): the probability that two sets with this Jaccard index agree in all "
        "rows of at least one band.",
        s_curve,
        Function(lambda: [(0.8, 16, 8), (0.5, 4, 2), (0.9, 1, 3), (0.0, 16, 8), (1.0, 2, 5)]),
        (
            Mistake(
                "bands and rows exchanged",
                lambda similarity, bands, rows: 1 - (1 - similarity**bands) ** rows,
                "Bands and rows are exchanged: all rows of a band must agree, and one band is enough.",
            ),
            Mistake(
                "probability of being missed",
                lambda similarity, bands, rows: (1 - similarity**rows) ** bands,
                "This is the probability that no band agrees.",
            ),
            Mistake(
                "all bands",
                lambda similarity, bands, rows: similarity ** (rows * bands),
                "Here every band has to agree. One is enough.",
            ),
            Mistake(
                "sum of probabilities",
                lambda similarity, bands, rows: bands * similarity**rows,
                "Adding up counts a pair again for each band that agrees, and can exceed 1. First find the probability "
                "that no band agrees.",
            ),
        ),
    ),
    Exercise(
        "01.6",
        "A fifth of the held-out texts have an exact copy in the training set, the others none. From the two losses "
        "measured at the end, what loss does the whole held-out set report?",
        reported_loss,
        Value(given={"no_copy": 2.0, "copied": 1.0}),
        (
            Mistake(
                "shares exchanged",
                lambda no_copy, copied: 0.2 * no_copy + 0.8 * copied,
                "The shares are exchanged: one text in five has a copy.",
            ),
            Mistake(
                "mean of the two",
                lambda no_copy, copied: (no_copy + copied) / 2,
                "This is the mean of the two groups, as if half of the texts had a copy.",
            ),
            Mistake(
                "copies left out",
                lambda no_copy, copied: no_copy,
                "This is what should be reported. But the copies are in the mean.",
            ),
        ),
    ),
)
