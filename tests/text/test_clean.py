"""Cleaning, by examples and by its properties; near duplicates against the Jaccard index that defines them."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.text.clean import (
    BAND_ROWS,
    BANDS,
    clean_text,
    deduplicate,
    jaccard,
    minhash_signature,
    shingle_hashes,
    split_words,
)

WORDS = [f"word{index}" for index in range(5000)]


def essay(seed, length=200):
    return random.Random(seed).choices(WORDS, k=length)


@pytest.mark.parametrize(
    "raw, cleaned",
    [
        ("Cafe\u0301 \r\n\r\n\r\n\r\nbar\x07", "Café\n\nbar"),
        ("\ufeffone\rtwo\x00\x1b[0m", "one\ntwo[0m"),
        ("a \t\nb\tc  d\n", "a\nb\tc  d\n"),
        ("half \ud800 a character", "half  a character"),
        ("\u200bkept 数 🙂", "\u200bkept 数 🙂"),
        ("the end.\x0cChapter 2", "the end.\nChapter 2"),
        ("one\x0btwo\x1cthree\x85four\u2028five\u2029six\x1fseven", "one\ntwo\nthree\nfour\nfive\nsix seven"),
        ("", ""),
    ],
)
def test_clean_text(raw, cleaned):
    assert clean_text(raw) == cleaned


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(" \t\n\r\x07e\u0301"))))
@settings(deadline=None)
def test_cleaning_twice_changes_nothing_more(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert "\n\n\n" not in once and " \n" not in once


def test_a_long_run_of_blanks_takes_no_long_time():
    assert clean_text(" " * 300_000 + "x") == " " * 300_000 + "x"


def test_duplicates_are_counted_exact_and_near():
    one, two, three = (f"{number} fish swam past in spring" for number in ("one", "two", "three"))
    assert deduplicate([one, two, one, f"{one.upper()}!", three]) == ([0, 1, 4], 1, 1)


@pytest.mark.parametrize(
    "one, other",
    [
        ("लड़का घर जाता है और खाना खाता है", "लड़की घर जाती है और खाना खाती है"),
        ("كَتَبَ هو في بيت كبير", "كُتِبَ هو في بيت كبير"),
        ("סֵפֶר זה על שולחן גדול", "סָפַר זה על שולחן גדול"),
        ("we know that 2 > 1 here", "we know that 2 < 1 here"),
        ("we know that 3 + 4 is", "we know that 3 - 4 is"),
        ("we know that x = y here", "we know that x != y here"),
        ("one fish", "ONE fish!"),
        ("वह जाता है", "वह जाती है"),
    ],
)
def test_texts_that_differ_in_a_vowel_sign_or_an_operator_are_two(one, other):
    assert deduplicate([one, other]) == ([0, 1], 0, 0)


def test_marks_belong_to_their_word_and_punctuation_to_none():
    assert split_words("वह जाता है, naïve: 2>1 (so) 😀.") == ["वह", "जाता", "है", "naïve", "2", ">", "1", "so", "😀"]


@pytest.mark.parametrize("seed", range(3))
def test_text_without_spaces_is_compared_by_characters(seed):
    """One clause of a hundred characters is changed in one place or all over: a near duplicate, or none."""
    draw = random.Random(seed)
    clause = [chr(draw.randrange(0x4E00, 0x5000)) for _ in range(100)]
    changed = [*clause[:50], "变", *clause[51:]]
    scattered = [sign if index % 4 else "变" for index, sign in enumerate(clause)]
    texts = ["".join(signs) + "。" for signs in (clause, changed, scattered)]
    assert deduplicate(texts) == ([0, 2], 0, 1)


def test_near_duplicates_are_those_whose_shingles_overlap_by_four_fifths():
    """Changing one word of 200 changes 5 of 196 runs: Jaccard 191 / 201 = 0.95. Changing 20 leaves far
    fewer.
    """
    original = essay(0)
    one_word = [*original[:100], "changed", *original[101:]]
    scattered = [word if index % 10 else "changed" for index, word in enumerate(original)]
    texts = [" ".join(words) for words in (original, one_word, scattered, essay(1))]
    assert jaccard(shingle_hashes(texts[0]), shingle_hashes(texts[1])) == pytest.approx(191 / 201)
    assert deduplicate(texts) == ([0, 2, 3], 0, 1)


def test_the_share_of_equal_minima_estimates_the_jaccard_index():
    """The standard error over 128 hashes is sqrt(J (1 - J) / 128), at most 0.044; the mean of 20 pairs has
    0.01.
    """
    errors = []
    for seed in range(20):
        words = essay(seed, 400)
        one, other = shingle_hashes(" ".join(words[: 300 + 5 * seed])), shingle_hashes(" ".join(words[5 * seed :]))
        errors.append((minhash_signature(one) == minhash_signature(other)).mean() - jaccard(one, other))
    assert abs(sum(errors) / len(errors)) < 0.03
    assert max(map(abs, errors)) < 0.18


def test_what_is_found_among_many_is_what_comparing_all_pairs_finds():
    texts = []
    for seed in range(60):
        words = essay(seed, 120)
        texts.append(" ".join(words))
        if seed % 3 == 0:
            texts.append(" ".join([*words[:-2], "another", "end"]))
    sets = [shingle_hashes(text) for text in texts]
    expected: list[int] = []
    for index, mine in enumerate(sets):
        if all(jaccard(mine, sets[other]) < 0.8 for other in expected):
            expected.append(index)
    assert deduplicate(texts)[0] == expected
    assert len(expected) == 60


def test_min_hashes_of_a_large_set_are_those_of_its_parts():
    members = set(range(10_000))
    halves = [minhash_signature(set(range(0, 5000))), minhash_signature(set(range(5000, 10_000)))]
    assert (minhash_signature(members) == [min(a, b) for a, b in zip(*halves, strict=True)]).all()


def test_signatures_estimate_jaccard_as_independent_hashes_would():
    """Pairs of sets with Jaccard 80 / 100: the share of equal hashes has the binomial's standard error, and bands find
    1 - (1 - 0.8^8)^16 = 0.947 of the pairs.
    """
    rng, agreements, found = np.random.default_rng(0), [], 0
    for _ in range(1500):
        members = rng.choice(2**32, 100, replace=False).astype(np.uint32)
        first, second = minhash_signature(members[:90]), minhash_signature(members[10:])
        same = first == second
        agreements.append(same.mean())
        found += same.reshape(BANDS, BAND_ROWS).all(1).any()
    expected = np.sqrt(0.8 * 0.2 / (BANDS * BAND_ROWS))
    assert np.mean(agreements) == pytest.approx(0.8, abs=4 * expected / np.sqrt(1500))
    assert np.std(agreements) == pytest.approx(expected, rel=0.15)
    assert found / 1500 == pytest.approx(1 - (1 - 0.8**BAND_ROWS) ** BANDS, abs=0.025)
