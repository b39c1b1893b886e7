"""Who says what an answer is worth: a reward model, or the oracle of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from labkit.decoding import Judge
from labkit.errors import LabError
from labkit.model.reward_model import RewardModel
from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import decode_reply
from labkit.text.tokenizer import Tokenizer
from labkit.world import Task, World
from labkit.world.oracle import gold_score


def reward_judge(reward_model: RewardModel, tokenizer: Tokenizer, has_end_token: bool = False) -> Judge:
    """The reward model's number at the last token of each answer: its end token, which is put behind it. has_end_token:
    the answer holds the end token that the model drew; one that was cut off has none, and is read where it was cut.
    """

    @torch.no_grad()
    def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        context, end = reward_model.config.context, [] if has_end_token else [tokenizer.turn_end_id]
        marked = []
        for prompt, answer in zip(prompts, answers, strict=True):
            row = [*prompt, *answer, *end][:context]
            marked.append((row, [i >= len(prompt) for i in range(len(row))]))
        (inputs, _, mask), ends = batch_with_last_token_index(marked, context, tokenizer.pad_token_id)
        device = reward_model.body.embedding.weight.device
        return reward_model.eval().scores_at(inputs.to(device), mask.to(device), ends.to(device)).tolist()

    return judge


def oracle_judge(world: World, tasks: Mapping[tuple[int, ...], Task], annotator: str, tokenizer: Tokenizer) -> Judge:
    """The gold score under an annotator's profile; tasks: what each prompt asks. Raises LabError for an annotator that
    the world has not, and for a prompt that is none of the tasks.
    """
    profile = world.profile(annotator)

    def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            task = tasks.get(tuple(prompt))
            if task is None:
                raise LabError(
                    "The oracle scores answers to TinyWorld's own tasks only; this prompt is not one of them."
                )
            found.append(gold_score(world, task, decode_reply(tokenizer, answer).strip(), profile).total)
        return found

    return judge
