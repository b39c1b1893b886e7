"""The world's annotators, and the measures of what is learnt from them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from labkit.decoding import generate
from labkit.errors import LabError
from labkit.evaluation.policies import OracleScores, paired_oracle_metrics
from labkit.evaluation.preference_accuracy import (
    gold_ranking_metrics,
    length_baseline_accuracy,
    pairwise_accuracy,
    ranking_metrics,
)
from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.reward_model import RewardModel
from labkit.preferences import annotate as annotations
from labkit.preferences.annotate import (
    AnnotatedPair,
    AnnotationConfig,
    generate_annotated_pairs,
    generate_annotated_rankings,
    preference_task,
    read_annotated_pairs,
    read_annotated_rankings,
    write_annotated_pairs,
    write_annotated_rankings,
)
from labkit.preferences.prompts import DatasetPrompts, OffsetPrompts, WorldPrompts
from labkit.text.chat import texts_with_leading_space
from labkit.text.pairs import PreferencePair
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message, World, gold_score

SMALL = AnnotationConfig(annotator="warm", num_generations=4, max_new_tokens=12)


@pytest.fixture(scope="module")
def lab():
    world = World.load("tiny")
    tokenizer = Tokenizer.train(
        [piece for i in range(60) for piece in texts_with_leading_space(world.conversation("train", 0, i))]
    )
    torch.manual_seed(0)
    shape = ModelConfig(
        tokenizer.vocab_size, 256, width=32, depth=1, heads=1, key_value_heads=1, feed_forward=Gated(48)
    )
    return world, tokenizer, Transformer(shape)


@pytest.fixture
def answered(lab, monkeypatch):
    """In place of the model: to each prompt a right answer, the same with a courtesy, again the first, and nothing."""
    world, tokenizer, _ = lab
    references = [preference_task(world, "train", 0, i).reference for i in range(12)]
    said = [text for reference in references for text in (reference, f"Sure! {reference}", reference, "")]
    written = [tokenizer.encode(" " + text) for text in said]
    monkeypatch.setattr(annotations, "generate", lambda *given, **options: written)


def test_choices_are_between_two_different_answers_and_scored(lab, answered):
    world, tokenizer, model = lab
    choices = generate_annotated_pairs(model, tokenizer, world, SMALL, "train", 12)
    assert 6 <= len(choices) <= 12 and all(choice.chosen_gold != choice.rejected_gold for choice in choices)
    asked = {preference_task(world, "train", 0, i).messages: preference_task(world, "train", 0, i) for i in range(12)}
    for choice in choices:
        task, profile = asked[choice.pair.prompt], world.profiles["warm"]
        assert choice.pair.chosen != choice.pair.rejected
        assert choice.chosen_gold == gold_score(world, task, choice.pair.chosen, profile).total
        assert choice.rejected_gold == gold_score(world, task, choice.pair.rejected, profile).total
    assert choices == generate_annotated_pairs(model, tokenizer, world, SMALL, "train", 12)


def test_what_is_answered_depends_on_the_arguments_alone(lab):
    world, tokenizer, model = lab
    told = []

    def listen(*given, **options):
        told.append(generate(*given, **options))
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "generate", listen)
        for seed in (0, 0, 1):
            generate_annotated_pairs(
                model, tokenizer, world, dataclasses.replace(SMALL, keep_ties=True), "train", 4, seed
            )
    assert told[0] == told[1] != told[2] and len(told[0]) == 16


def test_a_choice_without_noise_is_golds(lab, answered):
    world, tokenizer, model = lab
    quiet = dataclasses.replace(world.profiles["warm"], flip_probability=0.0)
    sure = copy.copy(world)
    sure.profiles = {"warm": quiet}
    choices = generate_annotated_pairs(model, tokenizer, sure, SMALL, "train", 12)
    assert choices and all(choice.chosen_gold > choice.rejected_gold for choice in choices)


def test_ties_are_left_out_unless_asked_for(lab, monkeypatch):
    world, tokenizer, model = lab
    good = preference_task(world, "train", 0, 0).reference
    said = [good, "Um", good, "Um", *["Um", "Er", "Um", "Er"] * 3]  # right or not to the first prompt, else never
    monkeypatch.setattr(annotations, "generate", lambda *given, **options: [tokenizer.encode(" " + x) for x in said])
    everything = generate_annotated_pairs(
        model, tokenizer, world, dataclasses.replace(SMALL, keep_ties=True), "train", 4
    )
    assert [choice.chosen_gold == choice.rejected_gold for choice in everything] == [False, True, True, True]
    assert generate_annotated_pairs(model, tokenizer, world, SMALL, "train", 4) == everything[:1]


def test_nothing_to_choose_between(lab, monkeypatch):
    world, tokenizer, model = lab
    monkeypatch.setattr(annotations, "generate", lambda *given, **options: [tokenizer.encode(" ?")] * 16)
    with pytest.raises(LabError, match="warm gives equal scores to all answers to 4 prompts, .* Fine-tune for longer"):
        generate_annotated_pairs(model, tokenizer, world, SMALL, "train", 4)


def test_an_unknown_annotator(lab):
    world, tokenizer, model = lab
    with pytest.raises(LabError, match="no annotator 'grumpy'; there are concise, warm, thorough"):
        generate_annotated_pairs(model, tokenizer, world, AnnotationConfig(annotator="grumpy"), "train", 1)


def test_one_answer_cannot_be_compared():
    with pytest.raises(LabError, match="num_generations must be at least 2 and at most 4096, not 1"):
        AnnotationConfig(num_generations=1)


def test_choices_come_back_from_disk(lab, answered, tmp_path):
    world, tokenizer, model = lab
    choices = generate_annotated_pairs(model, tokenizer, world, SMALL, "train", 12)
    write_annotated_pairs(tmp_path / "train.jsonl", choices)
    assert read_annotated_pairs(tmp_path / "train.jsonl") == choices
    (tmp_path / "torn.jsonl").write_text('{"prompt": [')
    with pytest.raises(LabError, match="torn.jsonl, line 1, is not JSON"):
        read_annotated_pairs(tmp_path / "torn.jsonl")


def test_rankings_are_of_all_different_answers_best_first(lab, answered):
    world, tokenizer, model = lab
    quiet = copy.copy(world)
    quiet.profiles = {"warm": dataclasses.replace(world.profiles["warm"], flip_probability=0.0)}
    rankings = generate_annotated_rankings(model, tokenizer, quiet, SMALL, "train", 12)
    pairs = generate_annotated_pairs(model, tokenizer, quiet, SMALL, "train", 12)
    assert len(rankings) == len(pairs)  # of four answers two are different, and not empty
    for one, choice in zip(rankings, pairs, strict=True):
        assert one.pairs == [choice] and list(one.golds) == sorted(one.golds, reverse=True)
        assert choice.rated_pair.margin == pytest.approx(one.golds[0] - one.golds[1])
    noisy = generate_annotated_rankings(model, tokenizer, world, SMALL, "train", 12)
    assert noisy == generate_annotated_rankings(model, tokenizer, world, SMALL, "train", 12)


def test_the_best_with_the_worst_are_the_ends_of_the_ranking(lab, answered):
    world, tokenizer, model = lab
    rankings = generate_annotated_rankings(model, tokenizer, world, SMALL, "train", 12)
    ends = dataclasses.replace(SMALL, pairing="best_with_worst")
    pairs = generate_annotated_pairs(model, tokenizer, world, ends, "train", 12)
    assert [(one.pair.chosen, one.pair.rejected) for one in pairs] == [
        (one.ranking.answers[0], one.ranking.answers[-1]) for one in rankings
    ]
    assert [(one.chosen_gold, one.rejected_gold) for one in pairs] == [
        (one.golds[0], one.golds[-1]) for one in rankings
    ]


def test_rankings_come_back_from_disk(lab, answered, tmp_path):
    world, tokenizer, model = lab
    rankings = generate_annotated_rankings(model, tokenizer, world, SMALL, "train", 12)
    write_annotated_rankings(tmp_path / "train.jsonl", rankings)
    assert read_annotated_rankings(tmp_path / "train.jsonl") == rankings
    with pytest.raises(LabError, match="train.jsonl cannot be read as choices of TinyWorld's annotators"):
        read_annotated_pairs(tmp_path / "train.jsonl")


def test_rankings_need_two_answers_of_unequal_gold(lab, monkeypatch):
    world, tokenizer, model = lab
    monkeypatch.setattr(annotations, "generate", lambda *given, **options: [tokenizer.encode(" Um")] * 16)
    with pytest.raises(LabError, match="warm gives equal scores to all answers to 4 prompts"):
        generate_annotated_rankings(model, tokenizer, world, SMALL, "train", 4)


def test_annotators_who_disagree_share_the_prompts(lab, monkeypatch):
    """A courtesy is worth more to one, brevity to the other, and neither makes mistakes: what the other chooses is
    wrong by the gold that the run is measured by, where the two disagree. One of two annotates half of the prompts.
    """
    world, tokenizer, model = lab
    divided = copy.copy(world)
    divided.profiles = {
        name: dataclasses.replace(world.profiles[name], flip_probability=0.0) for name in ("warm", "concise")
    }
    references = [preference_task(world, "train", 0, i).reference for i in range(80)]
    said = [text for reference in references for text in (reference, f"Of course! {reference}")]
    monkeypatch.setattr(
        annotations, "generate", lambda *given, **options: [tokenizer.encode(" " + text) for text in said]
    )

    def wrong(others: tuple[str, ...]) -> float:
        config = dataclasses.replace(SMALL, num_generations=2, other_annotators=others)
        choices = generate_annotated_pairs(model, tokenizer, divided, config, "train", 80)
        return sum(choice.chosen_gold < choice.rejected_gold for choice in choices) / len(choices)

    disagreement = wrong(("concise",) * 999)  # warm annotates none of the 80, but for one chance in twelve
    assert wrong(()) == wrong(("warm",)) == 0 and disagreement > 0.6
    assert wrong(("concise",)) == pytest.approx(disagreement / 2, abs=0.12)
    with pytest.raises(LabError, match="no annotator 'grumpy'; there are warm, concise"):
        wrong(("grumpy",))


def pair(chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair((Message("user", "Who?"),), chosen, rejected)


def test_length_is_the_better_of_longer_and_shorter():
    longer = [pair("Tom is.", "Tom."), pair("It is Anna.", "Anna."), pair("I know it.", "No.")]
    assert length_baseline_accuracy(longer) == 1
    assert length_baseline_accuracy([*longer, pair("No.", "I do not know.")]) == 0.75
    assert length_baseline_accuracy([PreferencePair(p.prompt, p.rejected, p.chosen) for p in longer]) == 1
    assert length_baseline_accuracy([pair("Tom.", "Ann.")]) == 0.5


def test_a_margin_of_zero_is_half():
    assert pairwise_accuracy(torch.tensor([1.0, -1.0, 0.0, 2.0])) == 0.625


def indifferent(model) -> RewardModel:
    """Scores everything zero."""
    reward_model = RewardModel(model)
    reward_model.logprob_weight.data.fill_(0.0)
    return reward_model


def test_a_reward_model_that_scores_nothing_ranks_nothing(lab):
    world, tokenizer, model = lab
    pairs = [pair("Tom is.", "Tom."), pair("It is Anna.", "Anna.")]
    found = ranking_metrics(indifferent(model), tokenizer, pairs, 64)
    assert found["validation_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert (found["pair_accuracy"], found["pairs"]) == (0.5, 2)


def test_gold_metrics_by_hand(lab):
    # three choices of four are gold's, one is a mistake; one more is between equals
    world, tokenizer, model = lab
    golds = [(0.9, 0.2), (0.8, 0.1), (0.7, 0.3), (0.1, 0.6), (0.5, 0.5)]
    choices = [AnnotatedPair(pair("Tom is here.", "Tom."), *gold) for gold in golds]
    found = gold_ranking_metrics(indifferent(model), tokenizer, choices, 64)
    assert found["noise_ceiling"] == pytest.approx(3.5 / 5)
    assert found["gold_length_accuracy"] == 0.75  # the longer one was chosen, rightly in three of four
    assert found["gold_accuracy"] == 0.5


def test_paired_metrics_by_hand():
    def oracle_scores(*gold):
        ones = np.ones(len(gold))
        return OracleScores(np.array(gold), ones, 0 * ones, 0 * ones)

    found = paired_oracle_metrics(oracle_scores(0.9, 0.5, 0.5, 0.1), oracle_scores(0.5, 0.5, 0.1, 0.5))
    assert found["gold_gain"] == pytest.approx(0.1)
    assert found["win_rate"] == pytest.approx(2.5 / 4)  # two wins, a tie, a loss
    assert found["gold_gain_standard_error"] == pytest.approx(np.std([0.4, 0, 0.4, -0.4]) / 2)
    assert found["win_high"] - found["win_rate"] == pytest.approx(1.96 * np.std([1, 0.5, 1, 0]) / 2)
    same = paired_oracle_metrics(oracle_scores(0.3, 0.7), oracle_scores(0.3, 0.7))
    assert (same["gold_gain"], same["win_rate"], same["win_low"]) == (0, 0.5, 0.5)


def test_prompts_of_the_world_fit_and_are_judged(lab):
    world, tokenizer, _ = lab
    prompts = WorldPrompts(tokenizer, world, "warm", max_prompt_tokens=150, seed=7)
    assert all(len(prompts.prompt_ids(i)) <= 150 for i in range(30))
    assert prompts.prompt_ids(3) == WorldPrompts(tokenizer, world, "warm", max_prompt_tokens=150, seed=7).prompt_ids(3)
    answer = tokenizer.encode(" I do not know.")
    assert len(prompts.oracle_scores_if_known([0, 1, 1], [answer] * 3)) == 3
    with pytest.raises(LabError, match="train.max_length leaves 2 tokens for a prompt"):
        WorldPrompts(tokenizer, world, "warm", max_prompt_tokens=2, seed=7).prompt_ids(0)


def test_prompts_may_begin_further_on(lab):
    world, tokenizer, _ = lab
    prompts = WorldPrompts(tokenizer, world, "warm", max_prompt_tokens=150, seed=7)
    later, answer = OffsetPrompts(prompts, 5), tokenizer.encode(" I do not know.")
    assert later.prompt_ids(2) == prompts.prompt_ids(7) and later.messages(0) == prompts.messages(5)
    assert later.oracle_scores_if_known([1], [answer]) == prompts.oracle_scores_if_known([6], [answer])


def test_given_prompts_that_do_not_fit_are_left_out(lab):
    _, tokenizer, _ = lab
    pairs = [pair("a", "b"), PreferencePair((Message("user", "Who is where with whom? " * 9),), "a", "b")]
    prompts = DatasetPrompts(tokenizer, [pair.prompt for pair in pairs], max_prompt_tokens=40)
    assert prompts.prompt_ids(0) == prompts.prompt_ids(1) and len(prompts.prompts) == 1
    assert prompts.fit == (2, 0, 1)
    with pytest.raises(LabError, match="None of 2 prompts fits in 3 tokens"):
        DatasetPrompts(tokenizer, [pair.prompt for pair in pairs], max_prompt_tokens=3)
