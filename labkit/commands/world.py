"""TinyWorld in the terminal: what the model reads, what it is asked, and how answers are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from labkit.commands.options import parse_options
from labkit.configs import Count, Seed

if TYPE_CHECKING:
    from labkit.world import Document, Task, World


@dataclass(frozen=True)
class WorldOptions:
    """Show TinyWorld: documents as the model is trained on them, and tasks with answers scored by the oracle."""

    size: Literal["tiny", "lab", "full"] = "lab"
    """TinyWorld's size (words, events, question types). The presets smoke, lab and full use tiny, lab and full."""
    seed: Seed = 0
    """Random seed of the stories and tasks."""
    question_type: Annotated[str | None, arg(metavar="TYPE", help_behavior_hint="")] = None
    """Show only tasks of this question type, for example where or why."""
    count: Count = 1
    """How many documents, and how many tasks of each question type."""
    split: Literal["train", "validation", "test"] = "test"
    """The data split. Combinations of people, things and places in validation and test do not occur in training."""
    older_names = {"question_type": "kind"}


def show_world(options: WorldOptions) -> int:
    """Print documents and tasks of a world. Raises LabError for a kind that the world does not have."""
    from labkit.world import World

    world = World.load(options.size)
    kinds = (options.question_type,) if options.question_type else world.task_kinds
    tasks = [world.task(options.split, options.seed, i, kind) for kind in kinds for i in range(options.count)]
    if not options.question_type:
        for i in range(options.count):
            print("\n".join(_document(world.document(options.split, options.seed, i))), end="\n\n")
    for task in tasks:
        print("\n".join(_task(world, task)), end="\n\n")
    return 0


def _document(document: Document) -> Iterator[str]:
    yield f"── a document: {document.kind}"
    yield from [document.passage] if document.passage else []
    for message in document.messages:
        yield f"   {message.role + ':':10} {message.content}"


def _task(world: World, task: Task) -> Iterator[str]:
    yield f"── a task: {task.kind}"
    for message in task.messages:
        yield f"   {message.role + ':':10} " + message.content.replace("\n", "\n" + 14 * " ")
    for name, response in (("a right answer", task.reference), ("a wrong answer", _wrong(world, task))):
        yield f"   {name}: {response}"
        yield from _scores(world, task, response)


def _wrong(world: World, task: Task) -> str:
    """The answer to another task of the same kind."""
    others = (world.task("train", 1, index, task.kind).reference for index in range(50))
    return next((other for other in others if other != task.reference), "")


def _scores(world: World, task: Task, response: str) -> Iterator[str]:
    """How each annotator would score a response, and why."""
    from labkit.world import gold_score

    for name, profile in world.profiles.items():
        given = gold_score(world, task, response, profile)
        yield f"      gold score, {name:9} {given.total:.2f}  {'; '.join(given.reasons)}"


def command(arguments: list[str]) -> int:
    """`labkit world`: its exit code."""
    return show_world(parse_options(WorldOptions, "world", arguments))
