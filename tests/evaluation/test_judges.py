"""Several reward models as one judge."""

import copy

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.judges import (
    Mean,
    MeanLessDeviation,
    RewardEnsemble,
    Worst,
    reward_ensemble,
    reward_judge,
)
from labkit.model.reward_model import RewardModel
from labkit.text.chat import encode_prompt
from labkit.world import Message
from tests.tiny_alignment import tiny_materials

PROMPTS, ANSWERS = [[1], [2], [3]], [[4], [5], [6]]


def fixed(*scores: float):
    return lambda prompts, answers: list(scores)


MEMBERS = [fixed(1.0, 2.0, 0.0), fixed(3.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        (Mean(), [2.0, 2.0, 1.5]),
        (Worst(), [1.0, 2.0, 0.0]),
        (MeanLessDeviation(0.0), [2.0, 2.0, 1.5]),
        (MeanLessDeviation(0.5), [2 - 0.5 * 2**0.5, 2.0, 1.5 - 0.5 * 4.5**0.5]),  # deviations √2, 0, √4.5
    ],
    ids=str,
)
def test_how_scores_are_combined(combine, expected):
    assert RewardEnsemble(MEMBERS, combine)(PROMPTS, ANSWERS) == pytest.approx(expected)


def test_members_that_agree_are_one():
    for combine in (Mean(), Worst(), MeanLessDeviation(2.0)):
        assert RewardEnsemble([MEMBERS[0]] * 3, combine)(PROMPTS, ANSWERS) == pytest.approx([1.0, 2.0, 0.0])


def test_the_level_of_one_member_moves_all_but_the_worst_alike():
    """Of the mean only the level moves, and with it no ranking; the worst goes by the lowest member then."""
    low = [fixed(1.0, 2.0, 0.0), fixed(-7.0, -8.0, -7.0)]
    mean = RewardEnsemble(low)(PROMPTS, ANSWERS)
    assert mean == pytest.approx([-3.0, -3.0, -3.5])
    assert RewardEnsemble(low, Worst())(PROMPTS, ANSWERS) == [-7.0, -8.0, -7.0]


def test_reward_models_of_several_stages():
    given = tiny_materials()
    prompt = encode_prompt(given.tokenizer, (Message("user", "Where is Anna?"),))
    answers = [given.tokenizer.encode(" In the park."), given.tokenizer.encode(" Here.")]
    body, models = given.model("sft"), []
    for seed in range(3):
        models.append(RewardModel(copy.deepcopy(body)).eval())
        models[-1].head.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    ensemble = reward_ensemble(models, given.tokenizer, Worst())
    alone = [reward_judge(model, given.tokenizer)([prompt] * 2, answers) for model in models]
    torch.testing.assert_close(ensemble.scores([prompt] * 2, answers), torch.tensor(alone))
    assert ensemble([prompt] * 2, answers) == pytest.approx([min(scores) for scores in zip(*alone, strict=True)])


def test_what_is_refused():
    with pytest.raises(LabError, match="An ensemble needs two or more reward models, not 1"):
        RewardEnsemble(MEMBERS[:1])
    with pytest.raises(LabError, match="The judge must return one finite score for each of 3 answers"):
        RewardEnsemble([MEMBERS[0], fixed(1.0)])(PROMPTS, ANSWERS)
    with pytest.raises(LabError, match="MeanLessDeviation: coef must be at least 0"):
        MeanLessDeviation(-1.0)
