"""The exercises of notebook 02, the tokenizer."""

from __future__ import annotations

import math
from collections import Counter

from labkit.course.checkers import Function, Value
from labkit.course.exercises import Exercise, Mistake

TITLE = "Tokenizer"

Pair = tuple[str, str]


def pair_counts(words: dict[tuple[str, ...], int]) -> dict[Pair, int]:
    """Each word adds as many to its pairs of neighbours as it occurs."""
    counts: Counter[Pair] = Counter()
    for word, times in words.items():
        for at in range(len(word) - 1):
            counts[word[at], word[at + 1]] += times
    return dict(counts)


def merge_pair(tokens: list[str], pair: Pair) -> list[str]:
    """From the left; a token that was merged is not used again."""
    merged: list[str] = []
    at = 0
    while at < len(tokens):
        if tuple(tokens[at : at + 2]) == pair:
            merged.append(pair[0] + pair[1])
            at += 2
        else:
            merged.append(tokens[at])
            at += 1
    return merged


def bits_per_byte(nats_per_token: float, tokens: int, size_in_bytes: int) -> float:
    """All nats, in bits, over all bytes."""
    return nats_per_token * tokens / math.log(2) / size_in_bytes


def tokens_without_merges() -> int:
    """Two Chinese characters of three bytes, a space of one, an emoji of four."""
    return len("\u6570\u5b66 \U0001f642".encode())


def special_tokens_of_the_prompt() -> int:
    """The beginning; four turns, each opened and closed; and the token after which the assistant answers."""
    return 1 + 4 * 2 + 1


def answer_mask(ids: list[int], assistant: int, end: int) -> list[bool]:
    """True after the token that opens the assistant's turn, up to the end with it."""
    mask, speaking = [], False
    for index in ids:
        mask.append(speaking)
        if index == assistant:
            speaking = True
        elif index == end:
            speaking = False
    return mask


def _once_a_word(words: dict[tuple[str, ...], int]) -> dict[Pair, int]:
    return pair_counts(dict.fromkeys(words, 1))


def _once_in_a_word(words: dict[tuple[str, ...], int]) -> dict[Pair, int]:
    counts: Counter[Pair] = Counter()
    for word, times in words.items():
        for pair in set(zip(word, word[1:], strict=False)):
            counts[pair] += times
    return dict(counts)


def _tokens_for_pairs(words: dict[tuple[str, ...], int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for token in word:
            counts[token] += times
    return dict(counts)


def _first_alone(tokens: list[str], pair: Pair) -> list[str]:
    for at in range(len(tokens) - 1):
        if (tokens[at], tokens[at + 1]) == pair:
            return [*tokens[:at], pair[0] + pair[1], *tokens[at + 2 :]]
    return list(tokens)


def _from_the_right(tokens: list[str], pair: Pair) -> list[str]:
    return [token[::-1] for token in merge_pair(tokens[::-1], pair[::-1])][::-1]


def _overlapping(tokens: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for at, token in enumerate(tokens):
        if tuple(tokens[at : at + 2]) == pair:
            merged.append(pair[0] + pair[1])
        elif at == 0 or tuple(tokens[at - 1 : at + 1]) != pair:
            merged.append(token)
    return merged


def _second_kept(tokens: list[str], pair: Pair) -> list[str]:
    return [pair[0] + pair[1] if tuple(tokens[at : at + 2]) == pair else one for at, one in enumerate(tokens)]


def _without_end(ids: list[int], assistant: int, end: int) -> list[bool]:
    return [said and index != end for said, index in zip(answer_mask(ids, assistant, end), ids, strict=True)]


def _with_opening(ids: list[int], assistant: int, end: int) -> list[bool]:
    return [said or index == assistant for said, index in zip(answer_mask(ids, assistant, end), ids, strict=True)]


def _to_the_end_of_the_row(ids: list[int], assistant: int, end: int) -> list[bool]:
    return [assistant in ids[:at] for at in range(len(ids))]


EXERCISES = (
    Exercise(
        "02.1",
        "Write pair_counts(words): how often each pair of neighbouring tokens occurs, where words says how often each "
        "word, a tuple of tokens, occurs.",
        pair_counts,
        Function(
            lambda: [
                ({("l", "o", "w"): 5, ("l", "o", "w", "e", "r"): 2},),
                ({("n", "o", "n", "o"): 3, ("o", "n"): 1},),
                ({("a",): 4},),
                ({},),
            ]
        ),
        (
            Mistake(
                "frequency forgotten",
                _once_a_word,
                "Every word counts once here. A word that occurs five times adds five to each of its pairs.",
            ),
            Mistake(
                "once in a word",
                _once_in_a_word,
                "A pair may stand in a word more than once, and each place counts.",
            ),
            Mistake("tokens for pairs", _tokens_for_pairs, "These are counts of single tokens. Count neighbours."),
        ),
    ),
    Exercise(
        "02.2",
        "Write merge_pair(tokens, pair): the tokens with each occurrence of the pair, from the left, as one token.",
        merge_pair,
        Function(
            lambda: [
                (["a", "b", "a", "b", "c"], ("a", "b")),
                (["a", "a", "a"], ("a", "a")),
                (["x", "y"], ("a", "b")),
                (["b", "a"], ("a", "b")),
                (["ba", "b", "a", "b"], ("a", "b")),
                ([], ("a", "b")),
            ]
        ),
        (
            Mistake("first occurrence alone", _first_alone, "Only the first occurrence is merged. Go on after it."),
            Mistake(
                "from the right",
                _from_the_right,
                "In a run like a a a the first two are merged: go from the left.",
            ),
            Mistake(
                "overlapping",
                _overlapping,
                "A token is used in two merges here: after a merge, go on behind both of its tokens.",
            ),
            Mistake(
                "joined as text",
                lambda tokens, pair: " ".join(tokens).replace(" ".join(pair), "".join(pair)).split(),
                "As text, the end of a longer token is taken for a token: ba b holds a b. Compare whole tokens.",
            ),
            Mistake(
                "second token kept",
                _second_kept,
                "The second token of the pair still stands after the merged one: skip it.",
            ),
        ),
    ),
    Exercise(
        "02.3",
        "Write bits_per_byte(nats_per_token, tokens, size_in_bytes): all nats of a text, in bits, over its bytes.",
        bits_per_byte,
        Function(lambda: [(2.0, 100, 400), (1.0, 7, 7), (0.5, 300, 1200)]),
        (
            Mistake(
                "nats for bits",
                lambda nats, tokens, size: nats * tokens / size,
                "These are nats per byte. How many bits is a nat?",
            ),
            Mistake(
                "multiplied by the logarithm",
                lambda nats, tokens, size: nats * tokens * math.log(2) / size,
                "A nat is more than a bit, so there are more bits than nats: divide by ln 2.",
            ),
            Mistake(
                "bits per token",
                lambda nats, tokens, size: nats / math.log(2),
                "These are bits per token. How many tokens are there, and how many bytes?",
            ),
            Mistake(
                "bytes and tokens exchanged",
                lambda nats, tokens, size: nats * size / math.log(2) / tokens,
                "Bytes and tokens are exchanged: first all nats of the text, then over its bytes.",
            ),
        ),
    ),
    Exercise(
        "02.4",
        'How many tokens has "\u6570\u5b66 \U0001f642" for a tokenizer that has no merges for these bytes?',
        tokens_without_merges,
        Value(),
        (
            Mistake("characters for bytes", 4, "That is one token a character. Without merges, one byte is one token."),
            Mistake("a byte missing", 10, "One is missing: the space is a byte, and an emoji has more than three."),
            Mistake("two bytes a character", 7, "A Chinese character has more than two bytes in UTF-8."),
        ),
    ),
    Exercise(
        "02.5",
        "How many special tokens has the prompt with a system message, a question, an answer and a second question, "
        "that the assistant is to answer?",
        special_tokens_of_the_prompt,
        Value(),
        (
            Mistake("ends forgotten", 6, "Each turn is closed, too."),
            Mistake("answer not asked for", 9, "One is missing: after which token does the assistant answer?"),
            Mistake(
                "last end too many",
                11,
                "One too many: the assistant's turn is opened, but not closed: it has yet to speak.",
            ),
            Mistake("system message forgotten", 8, "The system message is a turn like the others, opened and closed."),
        ),
    ),
    Exercise(
        "02.6",
        "Write answer_mask(ids, assistant, end): True for each id that the assistant says, and the end of its turn.",
        answer_mask,
        Function(
            lambda: [
                ([0, 4, 9, 8, 2, 5, 7, 6, 2], 5, 2),
                ([0, 4, 9, 2, 5, 7, 2, 4, 8, 2, 5, 6, 6, 2], 5, 2),
                ([0, 4, 9, 2], 5, 2),
            ]
        ),
        (
            Mistake(
                "end left out",
                _without_end,
                "The end of the turn is left out: a model that never learns it never stops.",
            ),
            Mistake(
                "opening token counts",
                _with_opening,
                "The token that opens the turn counts here. The program writes it, the model does not.",
            ),
            Mistake(
                "mask inverted",
                lambda ids, assistant, end: [not said for said in answer_mask(ids, assistant, end)],
                "The mask is inverted: True is what counts.",
            ),
            Mistake(
                "up to the end of the row",
                _to_the_end_of_the_row,
                "The user's next turn counts here, too: the mask goes back to False after the end of the answer.",
            ),
        ),
    ),
)
