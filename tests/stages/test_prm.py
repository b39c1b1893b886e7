"""A process reward model on a model of seconds: what it learns, what it chooses, and a policy that it rewards."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from labkit.configs import from_dict
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.steps import answer_score, best_of_n_metrics, score_drawn_steps, score_steps, step_metrics
from labkit.model.reward_model import RewardModel
from labkit.preferences.stepwise import StepLabelConfig, generate_stepwise_answers, step_tasks
from labkit.runs import pipeline
from labkit.runs.folder import Run
from labkit.runs.pipeline import run
from labkit.runs.plan import PlannedStage, make_plan, resolve_dependencies
from labkit.stages import PPO, SFT, Pretrain, RewardModeling, prm
from labkit.stages.credit import Credit, GroupMean, NoKL, ScoredAnswers, StepRewards
from labkit.stages.grpo import GRPO
from labkit.stages.prm import ProcessRewardModeling
from labkit.stages.rewards import Ensemble, ProcessReward
from labkit.text.chat import encode_prompt
from labkit.text.reading import Preferences
from labkit.text.reading.report import ReadReport
from labkit.text.steps import StepwiseAnswer, encode_steps, step_batch, step_end_indices
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from labkit.world import Message
from tests.tiny_alignment import TRAIN
from tests.tiny_recipe import tiny_recipe

FEW = StepLabelConfig(prompts=24, held_out=8, num_generations=3, max_new_tokens=8)
STAGE = ProcessRewardModeling(replace(TRAIN, max_length=96), FEW)
PROMPT = (Message("user", "Where is Anna?"),)
SAID = ("Sure!", "Anna is in the park.", "Ben is in the shop.")


@pytest.fixture
def labelled(monkeypatch):
    """Answers of three sentences, of which those that speak of the park are wrong, are drawn in the model's place."""
    places = ("park", "shop", "garden")

    def drawn(model, tokenizer, world, config, tasks, seed, precision):
        names, answers = world.lexicon.values["person"], []
        for number in range(len(tasks) * config.num_generations):
            said = [(names[(number + k) % len(names)], places[(number // (k + 1)) % 3]) for k in range(3)]
            sentences = tuple(f"{who} is in the {where}." for who, where in said)
            messages = tasks[number // config.num_generations].messages
            answers.append(StepwiseAnswer(messages, sentences, tuple(where != "park" for _, where in said)))
        return answers

    monkeypatch.setattr(prm, "generate_stepwise_answers", drawn)


def trained(stage, given):
    model = stage.initial_model(given)
    return model, list(fit(model, stage.source(given, model), stage.objective, stage.train))


def test_it_learns_which_sentences_are_correct(stage_inputs, labelled):
    given = replace(stage_inputs)  # with a cache of its own
    untrained = STAGE.validation_loss(STAGE.initial_model(given), given, EvaluationConfig())
    model, records = trained(STAGE, given)
    found = STAGE.evaluate(model, given, EvaluationConfig())
    assert found["validation_loss"] < untrained < 0.8
    assert found["step_accuracy"] > 0.9 > found["step_majority"] and found["step_ranking"] > 0.95
    assert records[-1].metrics["accuracy"] > 0.8 and records[-1].num_labels == 3 * 8
    assert found["product_correct"] > found["random_correct"] and found["any_correct"] <= 1
    assert 0 <= found["outcome_gold"] <= 1 and found["left_out"] == 0
    claim = STAGE.claim(found, {})
    assert claim is not None and claim.holds and claim.baseline == found["random_correct"]


def test_outcome_supervision_learns_the_last_label_alone(stage_inputs, labelled):
    given, stage = replace(stage_inputs), replace(STAGE, train_on_last_step_only=True)
    batch = stage.source(given, stage.initial_model(given)).next_batch(None, 0)
    assert batch.step_ends.sum(-1).tolist() == [1] * 8
    model, records = trained(stage, given)
    assert records[0].num_labels == 8
    found = stage.evaluate(model, given, EvaluationConfig())
    assert "last_correct" in found and "product_correct" not in found and stage.claim(found, {}) is not None


def test_what_the_model_says_is_labelled_by_the_oracle_and_the_same_each_time(stage_inputs):
    model, world, tokenizer = stage_inputs.model("sft"), stage_inputs.world, stage_inputs.tokenizer
    tasks = step_tasks(world, FEW, "test", 0)
    assert len(tasks) == 8 and {task.kind for task in tasks} == {"write"}
    once, again = (generate_stepwise_answers(model, tokenizer, world, FEW, tasks, 0, "fp32") for _ in range(2))
    assert once == again and len(once) == 24 and once[3].prompt == tasks[1].messages
    assert not any(all(answer.labels) for answer in once)  # of an untrained model


def test_ends_are_where_sentences_end(stage_inputs):
    tokenizer = stage_inputs.tokenizer
    answer = StepwiseAnswer(PROMPT, SAID, (True, True, False))
    (ids, counts), ends, _ = encode_steps(tokenizer, answer)
    starts = [counts.index(True), *(end + 1 for end in ends)]
    pieces = [tokenizer.decode(ids[start : end + 1]).strip() for start, end in zip(starts, ends, strict=False)]
    assert pieces == list(SAID) and ends[-1] == len(ids) - 1 and ids[-1] == tokenizer.eos_token_id
    assert step_end_indices(tokenizer, [tokenizer.eos_token_id]) == [0]
    cut = ids[counts.index(True) : ends[1] + 3]
    assert step_end_indices(tokenizer, cut) == [ends[0] - starts[0], ends[1] - starts[0], len(cut) - 1]
    with pytest.raises(ValueError, match="2 labels for 3 sentences"):
        encode_steps(tokenizer, answer._replace(labels=(True, False)))
    with pytest.raises(ValueError, match="no step"):
        step_end_indices(tokenizer, [])


def test_scores_hold_the_mean_log_probability_of_each_sentence(stage_inputs):
    """With a head of zero that is all; of one step it is what the reward model gives at the last token."""
    tokenizer, model = stage_inputs.tokenizer, RewardModel(stage_inputs.model("sft"))
    encoded = encode_steps(tokenizer, StepwiseAnswer(PROMPT, SAID, (True,) * 3))
    ids, ends = encoded.row[0], encoded.ends
    with torch.no_grad():
        logprobs = model.body(torch.tensor([ids]))[0, :-1].log_softmax(-1)
    own = logprobs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]  # of token t + 1 at t
    starts = [encoded.row[1].index(True), *(end + 1 for end in ends)]
    expected = [float(own[start - 1 : end].mean()) for start, end in zip(starts, ends, strict=False)]
    (found,) = score_steps(model, tokenizer, [StepwiseAnswer(PROMPT, SAID, (True,) * 3)], 96)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    batch = step_batch([encoded], 96, tokenizer.pad_token_id, last_only=True)
    whole = model.scores_at(batch.inputs, batch.mask, torch.tensor([ends[-1]]))
    alone = model.step_scores(batch.inputs, batch.mask, batch.step_ends)[batch.step_ends]
    torch.testing.assert_close(alone, whole)


def test_drawn_answers_score_as_the_same_words(stage_inputs):
    tokenizer, model = stage_inputs.tokenizer, RewardModel(stage_inputs.model("sft"))
    (ids, counts), ends, _ = encode_steps(tokenizer, StepwiseAnswer(PROMPT, SAID, (True,) * 3))
    first = counts.index(True)
    scores, places = score_drawn_steps(model, tokenizer, [ids[:first]], [ids[first:]])
    assert ids[:first] == encode_prompt(tokenizer, PROMPT) and [[end - first for end in ends]] == places
    torch.testing.assert_close(scores, score_steps(model, tokenizer, [StepwiseAnswer(PROMPT, SAID, (True,) * 3)], 96))


def test_measures_by_hand():
    """Scores 2, -1 | 1, 3 | -2: labels yes, yes | no, yes | no. Three of five are as labelled; of the six pairs of a
    correct and a wrong sentence (2, -1, 3 against 1, -2) all but -1 against 1 are in order.
    """
    scores = [torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0]), torch.tensor([-2.0])]
    answers = [StepwiseAnswer(PROMPT, ("A.",) * len(y), y) for y in ((True, True), (False, True), (False,))]
    found = step_metrics(scores, answers)
    assert (found["step_accuracy"], found["step_majority"], found["steps"]) == pytest.approx((0.6, 0.6, 5))
    assert found["step_ranking"] == pytest.approx(5 / 6)
    of_last = step_metrics(scores, answers, last_only=True)["validation_loss"]
    assert of_last == pytest.approx(-logsigmoid(torch.tensor([-1.0, 3.0, 2.0])).mean().item(), abs=1e-6)
    chosen = best_of_n_metrics(
        [[0, 1], [2, 3, 4]], {"min": [1, 2, 0, 5, 4]}, [True, False, False, True, False], [1] * 5
    )
    assert (chosen["min_correct"], chosen["any_correct"], chosen["min_gold"]) == (0.5, 1, 1)
    assert chosen["random_correct"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def scored(steps):
    zeros = torch.zeros_like(steps.rewards)
    return ScoredAnswers(steps.rewards.sum(-1), zeros, zeros, zeros, torch.ones_like(steps.ends), steps)


def test_tokens_are_credited_with_the_steps_from_their_own_on():
    """Two answers whose only wrong step is their first, or their last: the tokens before a mistake and in it are blamed
    for it, those behind it are not.
    """
    ends = torch.tensor([[False, True, False, True]] * 2)
    rewards = torch.tensor([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    part = scored(StepRewards(rewards, ends))
    (whole,) = Credit(GroupMean(), NoKL(), whiten=False, num_generations=2)([part._replace(steps=None)])
    assert not whole.advantages.any()  # as whole answers both are worth -1
    (found,) = Credit(GroupMean(False), NoKL(), whiten=False, num_generations=2)([part])
    assert found.advantages.tolist() == [[0, 0, 0.5, 0.5], [0, 0, -0.5, -0.5]]
    assert found.returns.tolist() == [[-1, -1, 0, 0], [-1, -1, -1, -1]]


@pytest.mark.parametrize("placement", ["steps", "product", "min", "last"])
def test_a_rollout_is_rewarded_at_its_sentences_or_at_its_end(stage_inputs, placement: Any):
    train = replace(TRAIN, max_length=160)
    stage = GRPO(train, reward=ProcessReward(placement=placement), num_generations=2, max_new_tokens=24)
    model = stage.initial_model(stage_inputs)
    source: Any = stage.source(stage_inputs, model)
    samples = source._sampled(model, 0)
    part = source._scored(model, 0, samples)
    scores, ends = score_drawn_steps(
        stage_inputs.reward_model(), stage_inputs.tokenizer, samples.prompts, samples.completions
    )
    aggregate: Any = "product" if placement == "steps" else placement
    assert part.scores.tolist() == pytest.approx([answer_score(one, aggregate) for one in scores], abs=1e-4)
    if placement != "steps":
        assert part.steps is None
        return
    for row, (prompt, completion) in enumerate(zip(samples.prompts, samples.completions, strict=True)):
        places = part.steps.ends[row].nonzero().flatten().tolist()
        assert [place - len(prompt) + 1 for place in places] == ends[row] and part.steps.ends[row][part.mask[row]].any()
        assert samples.batch.labels[row, places[-1]] == completion[-1]
        assert part.steps.rewards[row, places].tolist() == pytest.approx(logsigmoid(scores[row]).tolist(), abs=1e-4)


def test_a_policy_earns_more_of_it(stage_inputs):
    train = replace(TRAIN, max_length=160, steps=12, adamw_lr=1e-2)
    stage = GRPO(train, reward=ProcessReward(), num_generations=4, max_new_tokens=12, kl=NoKL())
    records = trained(stage, stage_inputs)[1]
    rewards = [record.metrics["reward"] for record in records]
    assert sum(rewards[-3:]) > sum(rewards[:3])
    found = stage.evaluate(stage_inputs.model("sft"), stage_inputs, EvaluationConfig(policy_prompts=4))
    assert found["training_reward"] == pytest.approx(found["training_reward_before"], abs=1e-4)


def test_stories_are_asked_where_tasks_says_so(stage_inputs):
    asked = stage_inputs.prompts(160, 20, ("write", "refuse"))
    kinds = [asked.messages(index)[-1].content.split()[0] for index in range(4)]
    assert kinds[0] == kinds[2] and any(word in kinds[0] for word in ("Write", "Tell", "Please"))
    given = replace(stage_inputs, preferences=Preferences([], [], ReadReport("file")), load_preferences=lambda: None)
    with pytest.raises(LabError, match="GRPO: tasks chooses among TinyWorld's own tasks"):
        GRPO(TRAIN, max_new_tokens=9, tasks=("write",)).check(given, EvaluationConfig())
    with pytest.raises(LabError, match="has no task 'sing'"):
        GRPO(TRAIN, max_new_tokens=9, tasks=("write", "sing")).check(stage_inputs, EvaluationConfig())


def test_it_is_not_the_reward_model_of_whole_answers():
    plan = make_plan(pretrain=Pretrain(), sft=SFT(), reward=RewardModeling(), prm=ProcessRewardModeling(), ppo=PPO())
    assert resolve_dependencies(plan)["ppo"].reward_stage == "reward"
    with pytest.raises(LabError, match="ppo needs a reward model"):
        resolve_dependencies([one for one in plan if one.name != "reward"])
    of_steps = PlannedStage("grpo", GRPO(reward=ProcessReward()))
    assert resolve_dependencies([*plan, of_steps])["grpo"].required_stages[:2] == ("sft", "prm")
    for reward in (ProcessReward("reward"), Ensemble(("reward", "prm"))):
        with pytest.raises(LabError, match="grpo needs the reward model"):
            resolve_dependencies([*plan, PlannedStage("grpo", GRPO(reward=reward))])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StepLabelConfig(tasks=()), "tasks must name a kind of task"),
        (lambda: StepLabelConfig(num_generations=1), "num_generations must be at least 2"),
        (lambda: ProcessRewardModeling(replace(TRAIN, max_length=100)), "answers of 110 tokens leave no room"),
        (lambda: from_dict(ProcessReward, {"placement": "mean"}), "ProcessReward: placement"),
    ],
)
def test_refused_settings(make, words):
    with pytest.raises(LabError, match=words):
        make()


def test_refused_before_anything_is_trained(stage_inputs):
    with pytest.raises(LabError, match="StepLabelConfig: TinyWorld of size tiny has no task 'sing'"):
        replace(STAGE, labelled=replace(FEW, tasks=("sing",))).check(stage_inputs, EvaluationConfig())
    with pytest.raises(LabError, match="the oracle can label sentences"):
        STAGE.check(replace(stage_inputs, conversations=object()), EvaluationConfig())
    short = replace(STAGE, train=replace(TRAIN, max_length=12))
    with pytest.raises(LabError, match="None of 72 answers with labelled sentences"):
        short.initial_model(replace(stage_inputs))


def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    train = TrainConfig(steps=4, batch_size=4, max_length=128, checkpoint_every=2, warmup_steps=1, precision="fp32")
    stages = tiny_recipe(train).stages
    plan = make_plan(pretrain=stages["pretrain"], sft=stages["sft"], prm=ProcessRewardModeling(train, FEW))
    recipe, straight, killed = tiny_recipe(plan=plan), tmp_path / "straight", tmp_path / "killed"
    list(run(recipe, straight))
    Run.open(straight).branch(killed, recipe, ["pretrain", "sft"])
    whole_fit = pipeline.fit

    def stopped(*given, **options):
        for number, record in enumerate(whole_fit(*given, **options)):
            yield record
            if number == 2:
                raise RuntimeError("killed")

    with monkeypatch.context() as once:
        once.setattr(pipeline, "fit", stopped)
        with pytest.raises(RuntimeError, match="killed"):
            list(run(recipe, killed, resume=True))
    list(run(recipe, killed, resume=True))
    runs = [Run.open(path) for path in (straight, killed)]
    assert len({one.stage("prm").weights_hash for one in runs}) == 1
    assert runs[0].latest_reward_stage() is None and runs[0].latest_language_model_stage().name == "sft"
    assert "step_accuracy" in runs[0].report()["stages"][-1]["metrics"]
