"""How much is measured, and what on: the world, or held-out real text and conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from labkit.configs import LARGEST, Count, Range, Seed, check_fields
from labkit.text.pieces import Text
from labkit.world import Document, World


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured. While training, half of the documents and a tenth of the characters are.

    documents: held-out documents (or conversations) for the losses. characters: of held-out real text, from its start.
    stories: generated from bos. tasks_per_kind: held-out ones to answer. majority_baseline_tasks: training tasks of
    each kind, among which the most frequent answer is counted (see `majority_answer_accuracy`). novelty_documents:
    training documents that stories are compared with (see `novel_story_share`). story_max_new_tokens,
    answer_max_new_tokens: where a generated story or answer is cut. generation_batch_size, loss_batch_size: how many at
    a time. policy_prompts: held-out ones on which a policy is compared with the model before it. seed: which tasks, and
    the draws of the stories.
    """

    documents: Annotated[int, Range(2, LARGEST)] = 200
    characters: Annotated[int, Range(10, LARGEST)] = 400_000
    stories: Count = 200
    tasks_per_kind: Count = 50
    majority_baseline_tasks: Count = 300
    novelty_documents: Count = 5000
    story_max_new_tokens: Count = 200
    answer_max_new_tokens: Count = 32
    generation_batch_size: Count = 100
    loss_batch_size: Count = 32
    policy_prompts: Annotated[int, Range(2, LARGEST)] = 500
    seed: Seed = 0

    older_names = {
        "tasks_per_kind": "tasks",
        "majority_baseline_tasks": "examples",
        "policy_prompts": "prompts",
        "novelty_documents": "compared",
        "story_max_new_tokens": "story_tokens",
        "answer_max_new_tokens": "answer_tokens",
        "generation_batch_size": "rows",
        "loss_batch_size": "loss_rows",
    }

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class WorldData:
    """A world to be measured in, the row length, and what was trained on: documents 0 … trained - 1 of
    `seed`.
    """

    world: World
    max_length: int
    seed: int = 0
    num_trained_documents: int = 0


@dataclass(frozen=True, eq=False)
class TextData:
    """Held-out real texts and conversations (either may be empty), and the row length."""

    texts: Sequence[Text]
    conversations: Sequence[Document]
    max_length: int


def truncate_texts(texts: Sequence[Text], max_characters: int) -> list[str]:
    """The first texts, the last of them cut, that hold so many characters together."""
    chosen: list[str] = []
    for text in texts:
        if max_characters <= 0:
            break
        chosen.append(str(text[:max_characters]))
        max_characters -= len(text)
    return chosen
