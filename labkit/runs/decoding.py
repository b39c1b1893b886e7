"""What decoding strategies need of a run: its prompts, its draft model, and the judge of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.evaluation.strategies import EvalPrompt, find_held_out_task

if TYPE_CHECKING:
    from labkit.decoding.strategies import DecodingResources
    from labkit.runs.folder import Run
    from labkit.world import Task, World


def world_and_prompts(run: Run, text: str, tasks: int = 0) -> tuple[World | None, list[EvalPrompt]]:
    """A run's world (None where it learnt from real text), and the prompts: this text, or tasks of the world.

    Raises LabError where there is neither.
    """
    from labkit.errors import LabError
    from labkit.text.chat import encode_prompt
    from labkit.world import Message, World

    tokenizer = run.tokenizer()
    real = run.recipe.text is not None or run.recipe.instructions is not None
    if real and (tasks or not text):
        raise LabError("This run was trained on real text and has no TinyWorld tasks: give a prompt with --prompt.")
    world = None if real else World.load(run.recipe.tinyworld_size)
    if world is None or text:
        task = None if world is None else find_held_out_task(world, text)
        return world, [EvalPrompt(text, encode_prompt(tokenizer, [Message("user", text)]), task)]
    kinds = world.task_kinds
    chosen = [world.task("test", 0, i // len(kinds), kinds[i % len(kinds)]) for i in range(tasks)]
    chosen = chosen or [world.task("test", 0, 0, "write")]
    return world, [EvalPrompt(one.messages[-1].content, encode_prompt(tokenizer, one.messages), one) for one in chosen]


def decoding_resources(
    run: Run,
    stop: Sequence[str] = (),
    draft: Path | None = None,
    world: World | None = None,
    tasks: Mapping[tuple[int, ...], Task] | None = None,
) -> DecodingResources:
    """What strategies need beside a run's model: its tokenizer, a draft's model, and as judge the run's reward model,
    or else the oracle of these tasks. Raises LabError for a draft that reads other tokens.
    """
    from labkit.decoding.strategies import DecodingResources
    from labkit.errors import LabError
    from labkit.evaluation.judges import oracle_judge, reward_judge
    from labkit.runs.folder import Run

    tokenizer, smaller, judge = run.tokenizer(), None, None
    if draft is not None:
        other = Run.open(draft)
        smaller = other.model()
        if other.tokenizer().backend.to_str() != tokenizer.backend.to_str():
            raise LabError(f"{draft} has a different tokenizer from {run.path}: a draft model must have the same one.")
    reward = run.latest_reward_stage()
    if reward is not None:
        judge = reward_judge(reward.reward_model(), tokenizer)
    elif world is not None and tasks:
        judge = oracle_judge(world, tasks, run.recipe.annotation.annotator, tokenizer)
    return DecodingResources(tokenizer, tuple(stop), smaller, judge)
