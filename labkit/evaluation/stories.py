"""Freely written stories, checked by the simulator: grammatical, consistent, novel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from labkit.decoding import generate
from labkit.evaluation.config import EvaluationConfig, WorldData
from labkit.evaluation.held_out_loss import Metrics
from labkit.model.transformer import Transformer
from labkit.text.chat import decode_reply, encode_text_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.world import World
from labkit.world.grammar import split_sentences


def story_metrics(model: Transformer, tokenizer: Tokenizer, data: WorldData, config: EvaluationConfig) -> Metrics:
    """Stories generated from bos at temperature 1, unfiltered: which share of their sentences parses
    (`grammatical`), which share of their events can happen (`consistent`), which share of them is not in
    the training set (`novel`).
    """
    stories = generate_stories(model, tokenizer, data.world, config)
    checks = [data.world.check(story) for story in stories]
    written = sum(check.sentences for check in checks)
    events = sum(check.events for check in checks)
    return {
        "grammatical": sum(check.parsed for check in checks) / max(1, written),
        "consistent": sum(check.possible for check in checks) / max(1, events),
        "novel": novel_story_share(stories, data, config.novelty_documents),
        "stories": len(stories),
        "story_sentences": written,
    }


def generate_stories(model: Transformer, tokenizer: Tokenizer, world: World, config: EvaluationConfig) -> list[str]:
    """`config.stories` stories generated from bos.

    A model of the corpus also writes fact paragraphs, patterns and scenes in which nothing happens. Those
    are passed over, but only where every sentence of them is flawless, so that the choice cannot flatter
    the model. At most three times as many texts are written.
    """
    generator = torch.Generator().manual_seed(config.seed)
    stories: list[str] = []
    for _ in range(3):
        missing = config.stories - len(stories)
        written = generate(
            model,
            [encode_text_prompt(tokenizer, "")] * math.ceil(1.5 * missing),
            max_new_tokens=min(config.story_max_new_tokens, model.config.context - 1),
            stop_ids=tokenizer.stop_ids,
            generator=generator,
            batch_size=config.generation_batch_size,
        )
        texts = [decode_reply(tokenizer, ids) for ids in written]
        stories += [text for text in texts if not is_valid_without_events(world, text)][:missing]
        if len(stories) == config.stories:
            break
    return stories


def is_valid_without_events(world: World, text: str) -> bool:
    """Whether a text is flawless and nothing happens in it: facts, a pattern, a scene."""
    context: dict[str, str] = {}
    read = [world.grammar.parse(line, context) for line in split_sentences(text)]
    if any(parsed is None or world.kinds[parsed.event.kind].is_happening for parsed in read):
        return False
    return bool(read) and not world.check(text).problems


def novel_story_share(stories: Sequence[str], data: WorldData, max_compared_documents: int) -> float:
    """The share of stories that are not word for word in the training set.

    Up to `max_compared_documents` training documents are compared, evenly spaced. When the run saw more, each find
    stands for trained / compared of them, so the estimate stays unbiased.
    """
    if not data.num_trained_documents:
        return 1.0
    count = min(data.num_trained_documents, max_compared_documents)
    known = _training_hashes(data.world, data.seed, data.num_trained_documents, count)
    found = sum(hash(story.strip()) in known for story in stories)
    return max(0.0, 1 - found / max(1, len(stories)) * data.num_trained_documents / count)


@lru_cache(maxsize=2)
def _training_hashes(world: World, seed: int, trained: int, count: int) -> frozenset[int]:
    return frozenset(hash(world.document("train", seed, i * trained // count).passage.strip()) for i in range(count))
