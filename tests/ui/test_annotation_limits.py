"""How many answers a page may have annotated, and ranked in one batch."""

import pytest

from labkit.errors import LabError
from labkit.runs.arguments import parse_run_arguments
from labkit.ui.manage import _check_size, _flags


def recipe(flags: str):
    return parse_run_arguments(["--out", "new", "--preset", "smoke", *_flags(flags)])[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--annotation.num-generations 65", "above this page's limit, 64"),
        ("--annotation.prompts 5000 --annotation.num-generations 64", "annotated answers are above this page's limit"),
        (
            "--annotation.format rankings --annotation.num-generations 64 --reward.loss PlackettLuce "
            "--reward.train.batch-size 256",
            "reward: 16,384 rows of .* tokens are above this page's limit",
        ),
        ("--plan pretrain,sft,reward,rejectionsampling --rejectionsampling.rollout-batches 65", "page's limit, 64"),
        ("--ppo.train.gradient-accumulation-steps 65", "above this page's limit, 64"),
        (
            "--plan pretrain,sft,reward,rejectionsampling --rejectionsampling.rollout-batches 64 "
            "--rejectionsampling.train.gradient-accumulation-steps 64",
            "rejectionsampling: a rollout of 4,096 batches of 32 rows of 192 tokens is above this page's limit",
        ),
    ],
)
def test_lists_count_against_the_limits_of_a_page(flags, words):
    with pytest.raises(LabError, match=words):
        _check_size(recipe(flags))


def test_pairs_of_many_answers_are_one_row_each():
    _check_size(recipe("--annotation.num-generations 64 --annotation.prompts 50 --reward.train.batch-size 256"))
