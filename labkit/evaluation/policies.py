"""How much better a policy has become than the model before it, on the same held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labkit.decoding import Judge, Temperature, generate
from labkit.errors import LabError, count_with_noun
from labkit.evaluation.held_out_loss import Metrics
from labkit.evaluation.judges import reward_judge
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.preferences.annotate import preference_task
from labkit.text.chat import decode_reply, encode_prompt, without_end_token
from labkit.text.fitting import LengthReport
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message, Task, World, gold_score

if TYPE_CHECKING:
    from labkit.stages.inputs import StageInputs


class OracleScores(NamedTuple):
    """Answers to the same prompts, one number each: total gold, right, unsupported claims, polite."""

    gold: np.ndarray
    right: np.ndarray
    unsupported: np.ndarray
    polite: np.ndarray


def oracle_scores(
    world: World, annotator: str, tokenizer: Tokenizer, tasks: Sequence[Task], answers: Sequence[Sequence[int]]
) -> OracleScores:
    """The oracle's opinion of answers, as ids, to the tasks, under the annotator's profile."""
    texts = [decode_reply(tokenizer, without_end_token(tokenizer, ids)) for ids in answers]
    profile = world.profile(annotator)
    scores = [gold_score(world, task, text, profile) for task, text in zip(tasks, texts, strict=True)]
    columns = zip(*((s.total, s.right, float(s.supported < 1), s.polite) for s in scores), strict=True)
    return OracleScores(*(np.array(column) for column in columns))


def paired_oracle_metrics(after: OracleScores, before: OracleScores) -> Metrics:
    """What changed, prompt by prompt: differences with the standard error of their mean, and the win rate.

    A tie is half a win. win_low, win_high: 95 % interval of the win rate, normal, over prompts.
    """
    gain = after.gold - before.gold
    wins = (gain > 0) + 0.5 * (gain == 0)
    error = wins.std() / math.sqrt(len(wins))
    return {
        "gold": float(after.gold.mean()),
        "gold_before": float(before.gold.mean()),
        "gold_gain": float(gain.mean()),
        "gold_gain_standard_error": float(gain.std() / math.sqrt(len(gain))),
        "right": float(after.right.mean()),
        "right_before": float(before.right.mean()),
        "unsupported": float(after.unsupported.mean()),
        "unsupported_before": float(before.unsupported.mean()),
        "polite": float(after.polite.mean()),
        "polite_before": float(before.polite.mean()),
        "win_rate": float(wins.mean()),
        "win_low": float(wins.mean() - 1.96 * error),
        "win_high": float(wins.mean() + 1.96 * error),
    }


def paired_reward_metrics(after: np.ndarray, before: np.ndarray) -> Metrics:
    """The reward model's opinion of both models' answers to the same prompts; a tie is half a win."""
    gain = after - before
    return {
        "reward": float(after.mean()),
        "reward_before": float(before.mean()),
        "reward_win_rate": float(((gain > 0) + 0.5 * (gain == 0)).mean()),
    }


def policy_metrics(
    model: Transformer,
    stage_inputs: StageInputs,
    num_prompts: int,
    max_length: int,
    max_new_tokens: int,
    make_training_judge: Callable[[HeldOutPrompts], Judge | None] | None = None,
    world_tasks: tuple[str, ...] = (),
) -> Metrics:
    """The policy beside the model that it began with on the same held-out prompts, of combinations that training never
    shows: by the oracle where there is one, and by the reward model where the run has made one, which says how well it
    is pleased and not whether that is good. make_training_judge: gives the judge that the policy was trained on, where
    neither of these is it. world_tasks: see `held_out_prompts`.
    """
    tokenizer = stage_inputs.tokenizer
    held_out = held_out_prompts(stage_inputs, num_prompts, max_length, max_new_tokens, world_tasks)
    tasks, asked, fit = held_out.tasks, held_out.prompt_ids, held_out.length_report
    answers = [
        greedy_answer_ids(model, tokenizer, asked, max_new_tokens),
        stage_inputs.cached(
            ("answers", num_prompts, max_length, max_new_tokens, stage_inputs.predecessor, world_tasks),
            lambda: greedy_answer_ids(stage_inputs.predecessor_model(), tokenizer, asked, max_new_tokens),
        ),
    ]
    metrics: Metrics = {}
    if tasks:
        after, before = (
            oracle_scores(stage_inputs.world, stage_inputs.annotator, tokenizer, tasks, given) for given in answers
        )
        metrics |= paired_oracle_metrics(after, before)
    reward_model = stage_inputs.reward_model_or_none()
    if reward_model is not None:
        liked, liked_before = (reward_scores(reward_model, tokenizer, asked, given) for given in answers)
        metrics |= paired_reward_metrics(liked, liked_before)
    judge = make_training_judge and make_training_judge(held_out)
    if judge:
        rewards = [float(judge_in_batches(judge, asked, given).mean()) for given in answers]
        metrics |= {"training_reward": rewards[0], "training_reward_before": rewards[1]}
    return metrics | {"prompts": len(asked)} | ({"prompts_left_out": fit.left_out} if fit.left_out else {})


class HeldOutPrompts(NamedTuple):
    """tasks: of the world, one a prompt; none where preferences are given. conversations, prompt_ids: of the prompts
    that leave room for an answer. length_report: how many do not.
    """

    tasks: list[Task]
    conversations: list[tuple[Message, ...]]
    prompt_ids: list[list[int]]
    length_report: LengthReport


def held_out_prompts(
    stage_inputs: StageInputs,
    num_prompts: int,
    max_length: int,
    max_new_tokens: int,
    world_tasks: Sequence[str] = (),
) -> HeldOutPrompts:
    """What a policy is measured on, in rows of `max_length` tokens. Raises LabError when none does. world_tasks: of the
    world's prompts, these kinds alone, where there are any.

    A given prompt leaves room for a whole answer; one of the world for its beginning, which is enough to be judged.
    """
    tokenizer, room = stage_inputs.tokenizer, max_length - max_new_tokens
    tasks: list[Task] = []
    if stage_inputs.uses_world_data:
        world, seed = stage_inputs.world, stage_inputs.seed
        tasks = [preference_task(world, "test", seed, index, world_tasks) for index in range(num_prompts)]
        different, room = [task.messages for task in tasks], max_length - 1
    else:
        assert stage_inputs.preferences is not None
        different = stage_inputs.preferences.validation_prompts[:num_prompts]
    asked = [encode_prompt(tokenizer, prompt) for prompt in different]
    fit = [index for index, ids in enumerate(asked) if len(ids) < room]
    if not fit:
        raise LabError(
            f"None of {len(asked)} held-out prompts leaves room for an answer of "
            f"{count_with_noun(max_length - room, 'token')}: together at most {max_length}. Raise train.max_length (up "
            f"to model.context), or shorten the prompts."
        )
    count = LengthReport(len(asked), left_out=len(asked) - len(fit))
    stage_inputs.check_fit(
        lambda: (fit, count),
        f"held-out prompts with an answer of {count_with_noun(max_length - room, 'token')}",
        max_length,
    )
    tasks, conversations = [tasks[index] for index in fit if tasks], [different[index] for index in fit]
    return HeldOutPrompts(tasks, conversations, [asked[index] for index in fit], count)


def greedy_answer_ids(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[list[int]], max_new_tokens: int
) -> list[list[int]]:
    """The likeliest answer, token by token, to each prompt: ids, cut after `max_new_tokens`, else with the end token
    that the model wrote.
    """
    return generate(
        model,
        prompts,
        filters=[Temperature(0)],
        max_new_tokens=max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        batch_size=128,
        keep_stop=True,
    )


def reward_scores(
    reward_model: RewardModel,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    batch_size: int = 64,
) -> np.ndarray:
    """The reward model's scores of answers, as ids, to the prompts, so many at a time: [N]. An answer is read at its
    last token, as PPO's rollouts are: at its end token, or where it was cut.
    """
    return judge_in_batches(reward_judge(reward_model, tokenizer, has_end_token=True), prompts, answers, batch_size)


def judge_in_batches(
    judge: Judge, prompts: Sequence[list[int]], answers: Sequence[list[int]], batch_size: int = 64
) -> np.ndarray:
    """A judge's number of each answer, so many at a time: [N]."""
    starts = range(0, len(prompts), batch_size)
    chunks = [judge(prompts[start : start + batch_size], answers[start : start + batch_size]) for start in starts]
    return np.array([score for chunk in chunks for score in chunk])
