"""Each filter beside transformers' own processor, on thousands of random distributions; those it has not, by hand."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.decoding import (
    Allowed,
    Banned,
    Epsilon,
    FrequencyPenalty,
    History,
    MinP,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from labkit.errors import LabError

many = settings(max_examples=40, deadline=None, derandomize=True)
ROWS, V = 50, 37
"""Random distributions for each drawn setting: 40 times 50 for each filter."""

SHARES = st.floats(0.05, 0.99)
TRUNCATING: dict[str, tuple[Any, Any, Any]] = {
    "top-k": (st.integers(1, V), TopK, transformers.TopKLogitsWarper),
    "top-p": (SHARES, TopP, transformers.TopPLogitsWarper),
    "min-p": (SHARES, MinP, transformers.MinPLogitsWarper),
    "typical": (SHARES, Typical, transformers.TypicalLogitsWarper),
    "epsilon": (st.floats(1e-4, 0.3), Epsilon, transformers.EpsilonLogitsWarper),
    "temperature": (st.floats(0.1, 5.0), Temperature, transformers.TemperatureLogitsWarper),
}


def random_logits(seed: int, sharpness: float) -> torch.Tensor:
    return sharpness * torch.randn(ROWS, V, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TRUNCATING)
@many
@given(st.data(), st.integers(0, 2**31), st.floats(0.1, 6.0))
def test_keeps_what_transformers_keeps(name, data, seed, sharpness):
    drawn, ours, theirs = TRUNCATING[name]
    setting, logits = data.draw(drawn), random_logits(seed, sharpness)
    torch.testing.assert_close(ours(setting)(logits), theirs(setting)(None, logits.clone()))


@many
@given(st.integers(0, 2**31), st.floats(0.5, 2.0), st.integers(1, 4), st.integers(1, 12))
def test_looks_back_as_transformers_does(seed, penalty, n, length):
    logits = random_logits(seed, 2.0)
    tokens = torch.randint(0, 5, (ROWS, length), generator=torch.Generator().manual_seed(seed))
    history = History(tokens, 0)
    expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone())
    torch.testing.assert_close(RepetitionPenalty(penalty)(logits, history), expected)
    expected = transformers.NoRepeatNGramLogitsProcessor(n)(tokens, logits.clone())
    torch.testing.assert_close(NoRepeatNgram(n)(logits, history), expected)


def test_banned_and_allowed():
    logits = random_logits(0, 1.0)
    theirs = transformers.SuppressTokensLogitsProcessor([3, 5])(None, logits.clone())
    assert Banned((3, 5, 3))(logits).equal(theirs)
    kept = Allowed((7, 2))(logits).isfinite()
    assert kept.sum() == 2 * ROWS and kept[:, [2, 7]].all()


def test_penalties_by_hand():
    """Prompt 4 1, written 1 1 2, of a vocabulary of 5: presence takes 0.5 off tokens 1 and 2; frequency takes it off 1
    twice. Repetition counts the prompt too: 4 is written nowhere and yet held back.
    """
    history, logits = History(torch.tensor([[4, 1, 1, 1, 2]]), 2), torch.tensor([[1.0, 2.0, -3.0, 4.0, 5.0]])
    assert PresencePenalty(0.5)(logits, history).tolist() == [[1.0, 1.5, -3.5, 4.0, 5.0]]
    assert FrequencyPenalty(0.5)(logits, history).tolist() == [[1.0, 1.0, -3.5, 4.0, 5.0]]
    assert RepetitionPenalty(2.0)(logits, history).tolist() == [[1.0, 1.0, -6.0, 4.0, 2.5]]
    # 1 1 was written, and 1 is the latest: a pair of 1 1 would be its second time; and 1 2 its second.
    assert NoRepeatNgram(2)(torch.zeros(1, 5), History(torch.tensor([[1, 1, 2, 1]]), 0)).isinf().tolist() == [
        [False, True, True, False, False]
    ]


def test_padding_is_no_token():
    """Rows that are padded on the left are held to their own tokens."""
    alone = History(torch.tensor([[3, 1, 3]]), 2)
    padded = History(torch.tensor([[-1, -1, 3, 1, 3]]), 4)
    logits = random_logits(1, 2.0)[:1]
    for one in (
        RepetitionPenalty(1.5),
        PresencePenalty(1.0),
        FrequencyPenalty(1.0),
        NoRepeatNgram(1),
        NoRepeatNgram(2),
        NoRepeatNgram(4),
    ):
        assert one(logits, padded).equal(one(logits, alone))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: MinP(0.0), "MinP: p must be above 0"),
        (lambda: Typical(1.5), "Typical: mass must be above 0 and at most 1, not 1.5"),
        (lambda: Epsilon(1.1), "Epsilon: cutoff must be above 0 and at most 1"),
        (lambda: RepetitionPenalty(0.0), "RepetitionPenalty: penalty must be at least 0.001"),
        (lambda: NoRepeatNgram(0), "NoRepeatNgram: n must be at least 1"),
        (lambda: Allowed(()), "must name at least one"),
        (lambda: Banned((99,))(torch.zeros(1, 5)), "no token 99 in a vocabulary of 5"),
        (lambda: NoRepeatNgram(2)(torch.zeros(1, 5)), "NoRepeatNgram needs the tokens that were generated so far"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(LabError, match=message):
        make()
