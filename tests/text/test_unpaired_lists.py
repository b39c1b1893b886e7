"""Ranked lists as single answers: each answer once, the one in the middle not at all."""

import pytest

from labkit.text.rankings import Ranking
from labkit.text.unpaired import once_in_lists, unpair, unpair_rankings
from labkit.world import Message


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_pairs_of_a_list_hold_each_of_its_answers_once(size):
    prompts = [(Message("user", text),) for text in ("one", "two")]
    lists = [Ranking(prompt, tuple("abcde"[:size])) for prompt in prompts]
    answers = unpair([pair for ranking in lists for pair in ranking.pairs])
    kept = [answers[at] for at in once_in_lists(answers)]
    assert len(kept) == 2 * 2 * (size // 2) and set(kept) == set(unpair_rankings(lists))
