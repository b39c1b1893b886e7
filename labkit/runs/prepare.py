"""What a run reads, made ready for its stages: sources, tokenizer, and the choices of the world's annotator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labkit.machine import default_device
from labkit.model.reward_model import RewardModel
from labkit.preferences.annotate import (
    AnnotatedRanking,
    compare_ratings,
    generate_annotated_answers,
    generate_annotated_pairs,
    generate_annotated_rankings,
    read_annotated_answers,
    read_annotated_pairs,
    read_annotated_rankings,
    write_annotated_answers,
    write_annotated_pairs,
    write_annotated_rankings,
)
from labkit.runs.folder import Run, open_other_run_stage
from labkit.runs.recipe import Recipe
from labkit.stages import PreferenceSplit, StageInputs
from labkit.text.chat import texts_with_leading_space
from labkit.text.pieces import sample_evenly_spaced_pieces
from labkit.text.reading import (
    Conversations,
    Preferences,
    Texts,
    read_conversations,
    read_preferences,
    read_texts,
)
from labkit.text.tokenizer import Tokenizer
from labkit.text.unpaired import AnswerSplit
from labkit.training.processes import accelerator
from labkit.world import World


class LoadedSources(NamedTuple):
    """What a recipe names to be read; None where the world takes its place."""

    texts: Texts | None
    conversations: Conversations | None
    preferences: Preferences | None


def read_sources(locations: Mapping[str, str]) -> LoadedSources:
    """Read what stands in these places, by the recipe's fields. Raises LabError for what cannot be read."""
    return LoadedSources(
        read_texts(locations["text"]) if "text" in locations else None,
        read_conversations(locations["instructions"]) if "instructions" in locations else None,
        read_preferences(locations["preferences"]) if "preferences" in locations else None,
    )


def prepare_inputs(run: Run) -> StageInputs:
    """Read what the recipe reads, and train the tokenizer unless the run has one."""
    recipe, processes = run.recipe, accelerator()
    world, (texts, conversations, preferences) = World.load(recipe.tinyworld_size), read_sources(run.input_locations)
    if processes.is_main_process and not (run.path / "tokenizer.json").is_file():
        if recipe.other_run_stages:
            tokenizer = open_other_run_stage(run.locate_other_run_stage(recipe.other_run_stages[0]))[0].tokenizer()
        else:
            pieces = tokenizer_texts(recipe, world, texts, conversations)
            tokenizer = Tokenizer.train(pieces, recipe.tokenizer.vocabulary)
        tokenizer.save(run.path)
    processes.wait_for_everyone()
    given = {"text": texts, "instructions": conversations, "preferences": preferences}
    run.reading = {name: part.reading.to_dict_with_source() for name, part in given.items() if part is not None}
    tokenizer = run.tokenizer()
    inputs = StageInputs(
        tokenizer,
        world,
        recipe.seed,
        texts,
        conversations,
        preferences,
        model_config=recipe.model,
        annotator=recipe.annotation.annotator,
        other_annotators=recipe.annotation.other_annotators,
        annotation_format=recipe.annotation.format,
        load_preferences=functools.partial(preference_split, run, tokenizer, world, preferences),
        rank=processes.process_index,
        world_size=processes.num_processes,
        folder=run.path,
    )
    return models_on(run, inputs, default_device())


def models_on(run: Run, stage_inputs: StageInputs, device: torch.device) -> StageInputs:
    """The same inputs of a stage, but that the run's models are put on this device."""

    def reward_model(stage: str) -> RewardModel | None:
        return run.stage(stage).reward_model(device) if run.stage(stage).trained else None

    return stage_inputs.with_models(lambda stage: run.model(stage, device), reward_model)


def preference_split(run: Run, tokenizer: Tokenizer, world: World, preferences: Preferences | None) -> PreferenceSplit:
    """The given preferences; else what the world's annotator chooses between answers of the fine-tuned model, or how
    they are ranked or rated.

    Annotations are made once and kept in the run's folder.
    """
    if preferences is not None:
        return PreferenceSplit.of(preferences)
    rankings: list[AnnotatedRanking] = []
    if run.recipe.annotation.format == "ratings":
        rated, held_out_rated = (_annotated(run, tokenizer, world, split, RATINGS) for split in ("train", "validation"))
        answers = AnswerSplit([one.answer for one in rated], [one.answer for one in held_out_rated])
        return PreferenceSplit([], [], compare_ratings(held_out_rated), answers=answers)
    if run.recipe.annotation.format == "rankings":
        rankings, held_out_rankings = (
            _annotated(run, tokenizer, world, split, RANKINGS) for split in ("train", "validation")
        )
        train, held_out = ([pair for one in part for pair in one.pairs] for part in (rankings, held_out_rankings))
    else:
        train, held_out = (_annotated(run, tokenizer, world, split, PAIRS) for split in ("train", "validation"))
    return PreferenceSplit(
        [choice.rated_pair for choice in train],
        [choice.pair for choice in held_out],
        held_out,
        [one.ranking for one in rankings],
    )


class _Annotations(NamedTuple):
    """How annotations of one format are made, kept and read."""

    generate: Callable[..., list[Any]]
    write: Callable[[Path, Any], None]
    read: Callable[[Path], list[Any]]


PAIRS = _Annotations(generate_annotated_pairs, write_annotated_pairs, read_annotated_pairs)
RANKINGS = _Annotations(generate_annotated_rankings, write_annotated_rankings, read_annotated_rankings)


RATINGS = _Annotations(generate_annotated_answers, write_annotated_answers, read_annotated_answers)


def _annotated(run: Run, tokenizer: Tokenizer, world: World, split: str, form: _Annotations) -> list[Any]:
    """What the run's folder keeps of a split, made first where it is not there."""
    config, file = run.recipe.annotation, run.path / "preferences" / f"{split}.jsonl"
    if accelerator().is_main_process and not file.is_file():
        model, count = run.model(run.recipe.annotated_stage), config.prompts if split == "train" else config.held_out
        form.write(file, form.generate(model, tokenizer, world, config, split, count, run.recipe.seed))
    accelerator().wait_for_everyone()
    return form.read(file)


def tokenizer_texts(recipe: Recipe, world: World, texts: Any, conversations: Any) -> Iterator[str]:
    """The texts that the tokenizer learns from: of the training set, in the form in which they are encoded."""
    if texts is not None:
        yield from sample_evenly_spaced_pieces(texts.train)
    else:
        for index in range(recipe.tokenizer.documents):
            yield from texts_with_leading_space(world.document("train", recipe.seed, index))
    if conversations is not None:
        for document in conversations.train:
            yield from texts_with_leading_space(document)
    elif texts is None:
        for index in range(recipe.tokenizer.documents // 4):
            yield from texts_with_leading_space(world.conversation("train", recipe.seed, index))
