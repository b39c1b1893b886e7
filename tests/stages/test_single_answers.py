"""KTO on labelled answers and the reward model on rated ones, on a model of seconds; and what each refuses."""

import dataclasses
import math

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.ratings import rating_metrics, score_answers
from labkit.stages import DPO, KTO, PPO, PreferenceSplit, RewardModeling, Stage, StageInputs
from labkit.stages.reward import AllPairs, BradleyTerry, Ratings
from labkit.text.ratings import RatedBatch, RatedSource, RatingScale, differently_rated, standard_scale
from labkit.text.reading import Conversations, Preferences
from labkit.text.reading.report import ReadReport
from labkit.text.unpaired import AnswerSplit, LabeledAnswer, RatedAnswer, SingleAnswer
from labkit.training.loop import fit
from labkit.world import Message
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials

NOTHING = EvaluationConfig(policy_prompts=2, answer_max_new_tokens=4)
RATED = RewardModeling(dataclasses.replace(TRAIN, batch_size=12), Ratings())


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


def given(stage_inputs: StageInputs, train: list, held_out: list) -> StageInputs:
    """The same with these answers from a file."""
    reading = ReadReport("votes.jsonl")
    preferences = Preferences([], [], reading, answers=AnswerSplit(train, held_out))
    return dataclasses.replace(
        stage_inputs,
        preferences=preferences,
        conversations=Conversations([], [], reading),
        load_preferences=lambda: PreferenceSplit.of(preferences),
    )


def single_answers(stage_inputs: StageInputs, rated: bool, bad: int = 1) -> tuple[list, list]:
    """One answer of each pair, or both with ratings: the polite ones are good, 5 of 5; the others 2 of 5."""
    parts: list[list[SingleAnswer]] = []
    for pairs in (stage_inputs.preference_split.train, stage_inputs.preference_split.validation):
        answers: list[SingleAnswer] = []
        for index, pair in enumerate(pairs):
            if rated:
                answers += [RatedAnswer(pair.prompt, pair.chosen, 5.0), RatedAnswer(pair.prompt, pair.rejected, 2.0)]
            else:
                good = index % (bad + 1) == 0
                answers.append(LabeledAnswer(pair.prompt, pair.chosen if good else pair.rejected, good))
        parts.append(answers)
    return parts[0], parts[1]


@pytest.fixture(scope="module")
def labelled(stage_inputs):
    return given(stage_inputs, *single_answers(stage_inputs, rated=False))


@pytest.fixture(scope="module")
def rated(stage_inputs):
    return given(stage_inputs, *single_answers(stage_inputs, rated=True))


def answers_of(stage_inputs: StageInputs) -> AnswerSplit:
    assert stage_inputs.preferences is not None
    return stage_inputs.preferences.answers


def trained(stage, stage_inputs):
    model = stage.initial_model(stage_inputs)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train))
    return model, records


def test_kto_learns_from_labelled_answers(labelled):
    stage = KTO(dataclasses.replace(TRAIN, adamw_lr=1e-3))
    stage.check(labelled, NOTHING)
    untrained = stage.held_out_metrics(stage.initial_model(labelled), labelled)
    baselines = stage.held_out_baselines(labelled)
    assert untrained["validation_loss"] == pytest.approx(0.5, abs=1e-5) and "pair_accuracy" not in untrained
    assert untrained["chosen_logprob"] == pytest.approx(baselines["chosen_logprob_before"], abs=1e-4)
    held_out = answers_of(labelled).validation
    share = sum(answer[2] for answer in held_out) / len(held_out)
    assert baselines["majority_accuracy"] == pytest.approx(max(share, 1 - share))
    assert (baselines["answers"], baselines["left_out"]) == (len(held_out), 0)
    model, records = trained(stage, labelled)
    measured = stage.held_out_metrics(model, labelled)
    assert measured["validation_loss"] < 0.9 * untrained["validation_loss"]
    assert measured["label_accuracy"] > 0.9 > baselines["majority_accuracy"]
    apart = [one["chosen_logprob"] - one["rejected_logprob"] for one in (untrained, measured)]
    assert apart[1] > apart[0] + 1 and records[-1].metrics["accuracy"] > 0.9
    claim = KTO.claim({**measured, "untrained_loss": 0.5}, {})
    assert claim is not None and claim.holds and claim.metric == "loss on held-out answers"


def test_the_answers_of_a_batch_are_those_of_the_file(labelled):
    stage = KTO(TRAIN)
    model = stage.initial_model(labelled)
    batch = stage.source(labelled, model).next_batch(model, 0)
    texts = {answer.completion: answer[2] for answer in answers_of(labelled).train}
    for labels, mask, good in zip(batch.labels, batch.mask, batch.desirable, strict=False):
        said = labelled.tokenizer.decode(labels[mask].tolist()).removesuffix("<|end|>").strip()
        assert texts[said] is bool(good)


def test_a_policy_is_trained_and_measured_on_the_prompts_of_single_answers(rated):
    asked = {one.prompt for one in answers_of(rated).train}
    prompts = rated.prompts(64, 4)
    assert {prompts.messages(index) for index in range(100)} == asked
    stage = PPO(dataclasses.replace(TRAIN, batch_size=4, steps=1), max_new_tokens=4)
    stage.check(rated, NOTHING)
    assert stage.evaluate(stage.result_model(stage.initial_model(rated)), rated, NOTHING)["prompts"] == 2


def test_a_reward_model_predicts_ratings_and_ranks_by_them(rated):
    RATED.check(rated, NOTHING)
    untrained = RATED.validation_loss(RATED.initial_model(rated), rated, NOTHING)
    model, _ = trained(RATED, rated)
    found = RATED.evaluate(model, rated, NOTHING)
    assert found["pair_accuracy"] > 0.9 and found["rating_correlation"] > 0.8
    assert found["validation_loss"] < 0.2 < 0.5 < untrained
    assert found["rating_variance"] == 2.25 and found["rating_error"] < 0.5 * found["rating_variance"]
    assert found["rating_error"] == pytest.approx(2 * found["validation_loss"] * 1.5**2, rel=1e-3)
    answers = answers_of(rated).validation
    assert (found["answers"], found["left_out"]) == (len(answers), 0) and found["pairs"] >= len(answers) / 2
    claim = RewardModeling.claim(found, {})
    assert claim is not None and claim.baseline == 0.5 and claim.holds


def test_thumbs_are_ratings_of_one_and_zero(labelled):
    stage = dataclasses.replace(RATED, loss=Ratings(standardize=False))
    stage.check(labelled, NOTHING)
    batch = stage.source(labelled, stage.initial_model(labelled)).next_batch(None, 0)
    assert isinstance(batch, RatedBatch) and {*batch.ratings.tolist()} == {0.0, 1.0}
    model, records = trained(stage, labelled)
    found = stage.evaluate(model, labelled, NOTHING)
    assert found["rating_correlation"] > 0.8 and found["rating_error"] < found["rating_variance"]
    assert records[-1].loss < records[0].loss and records[0].num_labels == 12


def test_stopped_and_resumed_it_ends_with_the_same_weights(rated, tmp_path):
    whole, _ = trained(RATED, rated)
    for steps in (7, None):
        model = RATED.initial_model(rated)
        run = fit(model, RATED.source(rated, model), RATED.objective, RATED.train, folder=tmp_path)
        for _, _ in zip(range(steps or 1000), run, strict=False):
            pass
        run.close()
    assert weights_hash(model) == weights_hash(whole)


def test_the_scale_of_ratings_by_hand(stage_inputs):
    """2, 2, 5, 5: mean 3.5, deviation 1.5, so that they are -1, -1, 1, 1."""
    ask = (Message("user", "Where is Anna?"),)
    answers = [RatedAnswer(ask, "Here.", 2.0), RatedAnswer(ask, "There.", 5.0)] * 2
    assert standard_scale(answers) == RatingScale(3.5, 1.5) and RatingScale(3.5, 1.5).score(2.0) == -1.0
    source = RatedSource(stage_inputs.tokenizer, answers, RatingScale(3.5, 1.5), 4, 64)
    batch = source.next_batch(None, 0)
    assert sorted(batch.ratings.tolist()) == [-1, -1, 1, 1] and len(batch.inputs) == len(batch.last_token_index) == 4
    other = RatedAnswer((Message("user", "Who?"),), "Anna.", 1.0)
    assert differently_rated([*answers[:2], other, answers[0]]) == [(1, 0), (1, 3)]


def test_without_two_answers_to_a_prompt_the_error_stands_beside_the_variance(stage_inputs):
    answers = [RatedAnswer((Message("user", f"Who is {n}?"),), f"It is {n}.", float(n)) for n in range(4)]
    model = RewardModeling(TRAIN).initial_model(stage_inputs)
    found = rating_metrics(model, stage_inputs.tokenizer, answers, RatingScale(1.5, 2.0), 64)
    scores = score_answers(model, stage_inputs.tokenizer, answers, 64, batch_size=3)
    by_hand = [(1.5 + 2 * float(score) - n) ** 2 for n, score in enumerate(scores)]
    assert found["rating_error"] == pytest.approx(sum(by_hand) / 4, rel=1e-4) and found["rating_variance"] == 1.25
    assert found["validation_loss"] == pytest.approx(sum(by_hand) / 4 / 2 / 2**2, rel=1e-4)
    assert "pair_accuracy" not in found and -1 <= found["rating_correlation"] <= 1
    claim = RewardModeling.claim(found, {})
    assert claim is not None and (claim.metric, claim.better) == ("squared error of the rating", "lower")
    assert (claim.value, claim.baseline) == (found["rating_error"], 1.25)
    same = rating_metrics(model, stage_inputs.tokenizer, [answers[0]] * 2, RatingScale(), 64)
    assert "rating_correlation" not in same and same["rating_variance"] == 0


def test_stages_that_need_pairs_refuse_single_answers(labelled, rated):
    words = "votes.jsonl: single answers with a {} cannot be paired, and this stage compares two answers to a prompt. "
    stages: list[Stage] = [DPO(TRAIN), RewardModeling(TRAIN), RewardModeling(TRAIN, AllPairs())]
    for stage in stages:
        with pytest.raises(LabError, match=words.format("label") + ".* --reward.loss Ratings, or kto, on them instead"):
            stage.check(labelled, NOTHING)
        with pytest.raises(LabError, match=words.format("rating") + ".* --reward.loss Ratings on them instead"):
            stage.source(rated, stage.initial_model(rated))


def test_kto_refuses_ratings_and_labels_that_are_all_the_same(stage_inputs, rated, labelled):
    stage = KTO(TRAIN)
    words = "votes.jsonl: single answers with a rating do not say which are good.* Give each a label, true for those"
    with pytest.raises(LabError, match=words):
        stage.check(rated, NOTHING)
    train, held_out = answers_of(labelled)
    for label, mend in (
        (True, "good, .* Add bad ones, or fine-tune"),
        (False, "bad, .* Add good ones"),
    ):
        alike = given(stage_inputs, [one for one in train if one[2] is label], list(held_out))
        with pytest.raises(LabError, match=rf"votes.jsonl: all \d+ training answers have the label {mend}"):
            stage.check(alike, NOTHING)
        with pytest.raises(LabError, match=r"All \d+ training answers have the rating [01], so there is nothing"):
            RATED.check(alike, NOTHING)


def test_kto_says_where_its_weights_do_not_even_out_the_labels(stage_inputs):
    train, held_out = single_answers(stage_inputs, rated=False, bad=3)
    uneven, labels = given(stage_inputs, train, held_out), [one.label for one in train]
    good, bad = sum(labels), len(labels) - sum(labels)
    with pytest.warns(
        UserWarning, match=f"KTO: {good} good answers with the weight 1, {bad} bad ones with .* weight 1"
    ):
        KTO(TRAIN).check(uneven, NOTHING)
    KTO(TRAIN, desirable_weight=1.1 * bad / good).check(uneven, NOTHING)


def test_ratings_refuses_pairs(stage_inputs):
    words = "TinyWorld's annotator: the loss Ratings cannot learn from preference pairs. Set annotation.format to rat"
    with pytest.raises(LabError, match=words):
        RATED.check(stage_inputs, NOTHING)
    pairs = stage_inputs.preference_split
    preferences = Preferences([*pairs.train], [*pairs.validation], ReadReport("pairs.jsonl"))
    with pytest.raises(LabError, match="pairs.jsonl: the loss Ratings .* Give single answers with a rating or a label"):
        RATED.check(dataclasses.replace(stage_inputs, preferences=preferences), NOTHING)
    with pytest.raises(LabError, match="center_rewards_coefficient holds the level of scores that choices leave open"):
        RewardModeling(TRAIN, Ratings(), center_rewards_coefficient=0.1)
    assert RewardModeling(TRAIN, BradleyTerry(), center_rewards_coefficient=0.1)


def test_answers_that_do_not_fit_are_counted(stage_inputs, rated):
    train, held_out = answers_of(rated)
    long = train[0]._replace(completion="Anna is in the park. " * 12)
    some = given(stage_inputs, [*train, long], list(held_out))
    with pytest.warns(UserWarning, match="1 of .* single answers; left out: 1"):
        RATED.check(some, NOTHING)
    assert RATED.evaluate(RATED.initial_model(some), some, NOTHING)["left_out"] == 1
    with pytest.raises(LabError, match="None of 1 single answers fits, with its prompt, in 64 tokens"):
        RATED.check(given(stage_inputs, [long], list(held_out)), NOTHING)
    assert math.isfinite(RATED.validation_loss(RATED.initial_model(some), some, NOTHING))
