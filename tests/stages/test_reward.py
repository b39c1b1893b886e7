"""The reward model's settings: losses over lists, margins, centering, and what makes the members of an ensemble."""

import dataclasses
import math

import pytest
import torch

from labkit.configs import from_dict
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.preference_accuracy import ranking_metrics, score_pairs
from labkit.stages import PreferenceSplit, RewardModeling
from labkit.stages.reward import AllPairs, BradleyTerry, PlackettLuce
from labkit.text.rankings import Ranking, RankingBatch
from labkit.text.reading import Preferences
from labkit.text.reading.report import ReadReport
from labkit.training.loop import fit
from labkit.world import Message
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials

LISTS: list[AllPairs | PlackettLuce] = [AllPairs(), PlackettLuce()]


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


@pytest.fixture(scope="module")
def ranked_inputs(stage_inputs):
    """The same with lists of two, three and four: two courtesies are better than one, and one than none."""
    rankings = []
    for index, name in enumerate(stage_inputs.world.lexicon.values["person"]):
        said = f"{name} is in the park."
        answers = (f"Sure! Sure! {said}", f"Sure! {said}", said, f"Um {said}")
        rankings.append(Ranking((Message("user", f"Where is {name}?"),), answers[: 2 + index % 3]))
    train, held_out = rankings[::2], rankings[1::2]
    split = PreferenceSplit(
        [pair for one in train for pair in one.pairs],
        [pair for one in held_out for pair in one.pairs],
        rankings=train,
    )
    return dataclasses.replace(stage_inputs, load_preferences=lambda: split)


def trained(stage: RewardModeling, given):
    model = stage.initial_model(given)
    return model, list(fit(model, stage.source(given, model), stage.objective, stage.train))


@pytest.mark.parametrize("loss", LISTS, ids=lambda loss: type(loss).__name__)
def test_it_learns_the_order_of_lists(ranked_inputs, loss):
    stage = RewardModeling(dataclasses.replace(TRAIN, batch_size=4), loss)
    untrained = stage.validation_loss(stage.initial_model(ranked_inputs), ranked_inputs, EvaluationConfig())
    model, records = trained(stage, ranked_inputs)
    found = ranking_metrics(model, ranked_inputs.tokenizer, ranked_inputs.fitting_held_out_pairs(64), 64)
    assert found["pair_accuracy"] > 0.85 and found["validation_loss"] < min(0.5, untrained)
    assert records[-1].metrics["accuracy"] > 0.85 and records[-1].metrics["tokens"] > 0


def test_steps_count_choices_or_lists(ranked_inputs):
    """A batch of lists of K: K - 1 choices each to Plackett and Luce; one list each to all pairs."""
    counts = {}
    for loss in LISTS:
        stage = RewardModeling(dataclasses.replace(TRAIN, batch_size=4, steps=1), loss)
        model = stage.initial_model(ranked_inputs)
        batch = stage.source(ranked_inputs, model).next_batch(model, 0)
        assert isinstance(batch, RankingBatch) and len(batch.inputs) == batch.present.sum()
        _, records = trained(stage, ranked_inputs)
        counts[type(loss)] = records[0].num_labels, int(batch.present.sum())
    assert counts == {
        AllPairs: (4, counts[AllPairs][1]),
        PlackettLuce: (counts[AllPairs][1] - 4, counts[AllPairs][1]),
    }


@pytest.mark.parametrize("loss", LISTS, ids=lambda loss: type(loss).__name__)
def test_pairs_are_lists_of_two_and_every_loss_is_the_same(stage_inputs, loss):
    _, pairwise = trained(RewardModeling(TRAIN), stage_inputs)
    _, listwise = trained(RewardModeling(TRAIN, loss), stage_inputs)
    for one, other in zip(pairwise[:5], listwise[:5], strict=True):
        assert one.num_labels == other.num_labels == 8
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert one.metrics["accuracy"] == pytest.approx(other.metrics["accuracy"])


def test_a_margin_drives_scores_apart(stage_inputs):
    pairs = [pair._replace(margin=2.0) for pair in stage_inputs.preference_split.train]
    split = PreferenceSplit(pairs, stage_inputs.preference_split.validation)
    given = dataclasses.replace(stage_inputs, load_preferences=lambda: split)
    plain, _ = trained(RewardModeling(TRAIN), given)
    wide, records = trained(RewardModeling(TRAIN, BradleyTerry(margin_coef=1.0)), given)
    assert records[0].loss == pytest.approx(math.log(1 + math.exp(2)), abs=0.5)  # scores hardly differ, asked is 2
    margins = []
    for model in (plain, wide):
        scores = score_pairs(model, given.tokenizer, given.fitting_held_out_pairs(64), 64)
        margins.append(float((scores.chosen - scores.rejected).mean()))
    assert margins[1] > margins[0] + 0.5
    unused, _ = trained(RewardModeling(TRAIN), stage_inputs)
    assert weights_hash(plain) == weights_hash(unused)  # what nobody asks for changes nothing


@pytest.mark.parametrize("loss", [BradleyTerry(), *LISTS], ids=lambda loss: type(loss).__name__)
def test_centering_holds_the_level(ranked_inputs, loss):
    levels = []
    for coefficient in (0.0, 0.5):
        model, _ = trained(RewardModeling(TRAIN, loss, center_rewards_coefficient=coefficient), ranked_inputs)
        scores = score_pairs(model, ranked_inputs.tokenizer, ranked_inputs.fitting_held_out_pairs(64), 64)
        levels.append(float((scores.chosen + scores.rejected).abs().mean()))
    assert levels[1] < 0.5 * levels[0]


def test_members_of_an_ensemble_differ_by_their_seeds_alone(stage_inputs):
    """By the order of the data; with head_std by the head's first weights, too. The run's seed counts as well."""
    hashes = [weights_hash(trained(RewardModeling(TRAIN, seed=seed), stage_inputs)[0]) for seed in (0, 1, 1)]
    assert hashes[0] != hashes[1] == hashes[2]
    later = dataclasses.replace(stage_inputs, seed=1)
    assert weights_hash(trained(RewardModeling(TRAIN), later)[0]) == hashes[1]
    heads = [RewardModeling(TRAIN, seed=seed, head_std=0.2).initial_model(stage_inputs).head for seed in (0, 1, 1)]
    assert not heads[0].weight.equal(heads[1].weight) and heads[1].weight.equal(heads[2].weight)
    assert float(heads[0].weight.detach().std()) == pytest.approx(0.2, rel=0.3) and heads[0].bias.item() == 0


def test_lists_that_do_not_fit_are_counted(ranked_inputs):
    long = "Anna is in the park. " * 12
    rankings = list(ranked_inputs.preference_split.rankings)
    split = dataclasses.replace(
        ranked_inputs.preference_split, rankings=[*rankings, rankings[0]._replace(answers=("Yes.", long))]
    )
    given = dataclasses.replace(ranked_inputs, load_preferences=lambda: split)
    stage = RewardModeling(dataclasses.replace(TRAIN, steps=1), PlackettLuce())
    with pytest.warns(UserWarning, match="2 of .* answers in ranked lists"):
        assert given.fitting_rankings(64) == rankings
    assert stage.evaluate(stage.initial_model(given), given, EvaluationConfig())["left_out"] == 1
    with pytest.raises(LabError, match="None of .* ranked lists fits, with its prompt, in 4 tokens"):
        given.fitting_rankings(4)


def test_an_answer_that_does_not_fit_costs_no_other(ranked_inputs):
    whole = list(ranked_inputs.preference_split.rankings)
    rankings = [one._replace(answers=(*one.answers, "Um " * 60)) for one in whole]
    pairs = [pair for one in rankings for pair in one.pairs]
    split = PreferenceSplit(pairs, pairs, rankings=rankings)
    given = dataclasses.replace(
        ranked_inputs, load_preferences=lambda: split, preferences=Preferences(pairs, pairs, ReadReport("x"), rankings)
    )
    with pytest.warns(UserWarning, match=f"left out: {len(whole)}"):
        RewardModeling(TRAIN, PlackettLuce()).check(given, EvaluationConfig())
    assert given.fitting_rankings(64) == whole
    with pytest.raises(LabError, match="None of .* ranked lists fits"):
        given.fitting_rankings(4)


@pytest.mark.parametrize("scored", [True, False])
def test_a_coefficient_of_margins_that_nobody_gave_is_refused(ranked_inputs, scored):
    lists = [
        one._replace(scores=tuple(range(len(one.answers)))[::-1] if scored else ())
        for one in ranked_inputs.preference_split.rankings
    ]
    pairs = [pair for one in lists for pair in one.pairs]
    split = PreferenceSplit(pairs, pairs, rankings=lists)
    given = dataclasses.replace(
        ranked_inputs, load_preferences=lambda: split, preferences=Preferences(pairs, pairs, ReadReport("x"), lists)
    )
    RewardModeling(TRAIN).check(given, EvaluationConfig())
    stage = RewardModeling(TRAIN, BradleyTerry(margin_coef=0.5))
    if scored:
        stage.check(given, EvaluationConfig())
        return
    with pytest.raises(LabError, match="margin_coef is 0.5, but none of the .* says how much better"):
        stage.check(given, EvaluationConfig())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: from_dict(RewardModeling, {"loss": "dpo"}),
            "loss must be of type BradleyTerry or .*dpo",
        ),
        (lambda: RewardModeling(center_rewards_coefficient=-0.1), "center_rewards_coefficient must be at least 0"),
        (lambda: RewardModeling(seed=-1), "RewardModeling: seed must be at least 0"),
        (lambda: RewardModeling(head_std=math.inf), "RewardModeling: head_std must be finite and at least 0"),
        (lambda: BradleyTerry(margin_coef=-1.0), "BradleyTerry: margin_coef must be at least 0, not -1"),
    ],
)
def test_refused_settings(make, words):
    with pytest.raises(LabError, match=words):
        make()
