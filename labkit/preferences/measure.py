"""How good a reward model is, and how much better a policy has become than the one before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from labkit.decoding import Temperature, generate
from labkit.held_out import Metrics
from labkit.losses import pairwise_loss
from labkit.model.scorer import Scorer
from labkit.model.transformer import Transformer
from labkit.preferences.annotate import Choice, preference_task
from labkit.text.batch import whole_rows
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.pairs import Pair, comparison, encode_pair
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message, World, score

if TYPE_CHECKING:
    from labkit.stages.materials import Materials


@torch.no_grad()
def score_pairs(
    scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[Pair], length: int, rows: int = 64
) -> torch.Tensor:
    """The reward model's scores of each pair's chosen and rejected answer: [N, 2]."""
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    was_training = scorer.training
    scorer.eval()
    found = []
    for start in range(0, len(encoded), rows):
        batch = comparison(encoded[start : start + rows], length, tokenizer.pad)
        found.append(scorer.last(batch.inputs, batch.mask, batch.ends).view(2, -1).T)
    scorer.train(was_training)
    return torch.cat(found)


def ranking_metrics(scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[Pair], length: int) -> Metrics:
    """On held-out pairs that fit in a row: the loss, the share ranked as chosen, and what length alone gives."""
    scores = score_pairs(scorer, tokenizer, pairs, length)
    chosen, rejected = scores.unbind(1)
    return {
        "validation_loss": float(pairwise_loss(chosen, rejected).loss.mean()),
        "pair_accuracy": agreement(chosen - rejected),
        "length_accuracy": length_accuracy(pairs),
        "pairs": len(pairs),
    }


def gold_metrics(scorer: Scorer, tokenizer: Tokenizer, choices: Sequence[Choice], length: int) -> Metrics:
    """On held-out choices of a world's annotator: how often the ranking is that of gold.

    noise_ceiling: how often the choices themselves are gold's, which no model of gold can pass when it is judged by
    these choices. Pairs that gold holds equal are left out of gold_accuracy and gold_length_accuracy, and both where
    gold holds all of them equal.
    """
    ceiling = {"noise_ceiling": agreement(torch.tensor([c.chosen_gold - c.rejected_gold for c in choices]))}
    known = [choice for choice in choices if choice.chosen_gold != choice.rejected_gold]
    if not known:
        return ceiling
    sign = np.array([np.sign(choice.chosen_gold - choice.rejected_gold) for choice in known])
    scores = score_pairs(scorer, tokenizer, [choice.pair for choice in known], length)
    better = [c.pair if c.chosen_gold > c.rejected_gold else _turned(c.pair) for c in known]
    return {
        "gold_accuracy": agreement((scores[:, 0] - scores[:, 1]) * torch.from_numpy(sign)),
        "gold_length_accuracy": length_accuracy(better),
        **ceiling,
    }


def agreement(margins: torch.Tensor) -> float:
    """Share of margins [N] above zero; a margin of zero is half."""
    return float(((margins > 0).float() + 0.5 * (margins == 0).float()).mean())


def length_accuracy(pairs: Sequence[Pair]) -> float:
    """How often the longer answer was chosen, or the shorter one, whichever is more often; in characters."""
    longer = agreement(torch.tensor([float(len(pair.chosen) - len(pair.rejected)) for pair in pairs]))
    return max(longer, 1 - longer)


def _turned(pair: Pair) -> Pair:
    return Pair(pair.prompt, pair.rejected, pair.chosen)


class Judged(NamedTuple):
    """Answers to the same prompts, one number each: total gold, right, unsupported claims, polite."""

    gold: np.ndarray
    right: np.ndarray
    unsupported: np.ndarray
    polite: np.ndarray


def judged_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    annotator: str,
    count: int,
    seed: int,
    answer_tokens: int = 40,
) -> Judged:
    """Greedy answers to `count` held-out tasks, of combinations that training never shows, judged by the oracle."""
    tasks = [preference_task(world, "test", seed, index) for index in range(count)]
    answers = generate(
        model,
        [encode_prompt(tokenizer, task.messages) for task in tasks],
        steps=[Temperature(0)],
        max_new_tokens=answer_tokens,
        stop_ids=[tokenizer.end],
        rows=128,
    )
    profile = world.profiles[annotator]
    scores = [
        score(world, task, decode_reply(tokenizer, ids), profile) for task, ids in zip(tasks, answers, strict=True)
    ]
    columns = zip(*((s.total, s.right, float(s.supported < 1), s.polite) for s in scores), strict=True)
    return Judged(*(np.array(column) for column in columns))


def paired_metrics(after: Judged, before: Judged) -> Metrics:
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
        "prompts": len(gain),
    }


def policy_metrics(model: Transformer, materials: Materials, prompts: int, length: int, answer_tokens: int) -> Metrics:
    """The policy beside the fine-tuned model on the same held-out prompts: by the oracle where there is one, else by
    the reward model, which then says how well it is pleased and not whether that is good.
    """
    before = materials.model("sft")
    if materials.preferences is None:
        world, annotator, seed = materials.world, materials.annotator, materials.seed
        judge = partial(
            judged_answers,
            tokenizer=materials.tokenizer,
            world=world,
            annotator=annotator,
            count=prompts,
            seed=seed,
            answer_tokens=answer_tokens,
        )
        return paired_metrics(judge(model), judge(before))
    asked = list(dict.fromkeys(pair.prompt for pair in materials.preferences.validation))[:prompts]
    rewards = [
        rewards_of(materials.scorer(), materials.tokenizer, policy, asked, length, answer_tokens)
        for policy in (model, before)
    ]
    gain = rewards[0] - rewards[1]
    wins = (gain > 0) + 0.5 * (gain == 0)
    return {
        "reward": float(rewards[0].mean()),
        "reward_before": float(rewards[1].mean()),
        "reward_win_rate": float(wins.mean()),
        "prompts": len(gain),
    }


@torch.no_grad()
def rewards_of(
    scorer: Scorer,
    tokenizer: Tokenizer,
    model: Transformer,
    prompts: Sequence[tuple[Message, ...]],
    length: int,
    answer_tokens: int,
) -> np.ndarray:
    """The reward model's scores of the model's greedy answers to the prompts that leave room for one: [N]."""
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    ids = [prompt for prompt in ids if len(prompt) + answer_tokens < length]
    answers = generate(
        model, ids, steps=[Temperature(0)], max_new_tokens=answer_tokens, stop_ids=[tokenizer.end], rows=64
    )
    rows = [
        ([*prompt, *answer, tokenizer.end], [False] * len(prompt) + [True] * (len(answer) + 1))
        for prompt, answer in zip(ids, answers, strict=True)
    ]
    batch, ends = whole_rows(rows, length, tokenizer.pad)
    return scorer.eval().last(batch.inputs, batch.mask, ends).numpy()
