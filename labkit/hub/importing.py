"""A published checkpoint as a run: every stage, the decoder and the app work on it as on one that was made here."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labkit import machine
from labkit.errors import LabError
from labkit.hub import open_checkpoint, resolve_checkpoint
from labkit.hub.gguf import load_gguf, load_gguf_tokenizer
from labkit.hub.gguf_file import find_gguf_file
from labkit.hub.tokenizer_files import load_tokenizer
from labkit.model.transformer import ModelConfig, Transformer
from labkit.runs.folder import Run, run_file_names
from labkit.runs.locked import lock_and_recover_run_folder
from labkit.runs.prepare import LoadedSources, read_sources
from labkit.runs.recipe import Recipe
from labkit.runs.stage_folder import StageFolder
from labkit.runs.transactions import transaction
from labkit.text.tokenizer import Tokenizer


def import_checkpoint(
    path_or_hub_name: str | Path,
    target: str | Path,
    recipe: Recipe,
    chat_template_name: str | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Begin a run in `target` whose first stages are a checkpoint: a folder or hub id in transformers' form, or a GGUF
    file.

    Of safetensors the weights are written straight from the checkpoint: in memory is one file of the run's weights (see
    `labkit.training.weights`), however large the model is; they are read twice, since NaN and infinite numbers are
    refused before anything is written. A GGUF file is loaded whole.

    recipe: of the stages to come; its model's shape becomes the checkpoint's. chat_template_name: "plain" for turns
    written plainly, or the name of one of several templates. say: is told what had to be decided. Raises LabError when
    the checkpoint or its tokenizer cannot be read, when the model does not write word by word, when its chat template
    refuses turns of the recipe's inputs, and for a folder in use.
    """
    if not recipe.chat_stages:
        raise LabError(
            "--text alone leaves nothing to train: pretraining starts from random weights, not from a checkpoint. Give "
            "--instructions too, to fine-tune the checkpoint on."
        )
    with lock_and_recover_run_folder(target):
        sources = read_sources(Run.new_unsaved(target, recipe).input_locations)
        checkpoint = _open(path_or_hub_name, chat_template_name, say)
        tokenizer, config = checkpoint.tokenizer, checkpoint.config
        _check_turns(tokenizer, sources)
        if not config.causal or config.encoder_depth:
            raise LabError(f"{path_or_hub_name} is not a causal language model, so it cannot become a run.")
        if tokenizer.vocab_size > config.vocabulary:
            raise LabError(
                f"{path_or_hub_name}: its tokenizer has {tokenizer.vocab_size} tokens, its model only "
                f"{config.vocabulary}."
            )
        recipe = fit_recipe_to_context(recipe, config)
        with transaction(Path(target), "an import", run_file_names(recipe)):
            run = Run.new_unsaved(target, recipe)
            _fill(run, checkpoint, str(path_or_hub_name))
            run.save_recipe()  # last: without it the folder is no run
    return run


def _check_turns(tokenizer: Tokenizer, sources: LoadedSources) -> None:
    """Raises LabError where the chat template refuses turns that were read, before anything is written: by their roles,
    each sequence of which is tried once.
    """
    if tokenizer.template is None:
        return
    talks, preferences = sources.conversations, sources.preferences
    given = [document.messages for document in (*talks.train, *talks.validation)] if talks else []
    given += [*preferences.train_prompts, *preferences.validation_prompts] if preferences else []
    for messages in {tuple(message.role for message in messages): messages for messages in given}.values():
        tokenizer.template.check([(message.role, message.content) for message in messages])


def _fill(run: Run, checkpoint: _Opened, source: str) -> None:
    """The checkpoint as the run's first stages: pretraining and fine-tuning both, since stages can build on either."""
    checkpoint.tokenizer.save(run.path)
    nothing: dict[str, Any] = {"seconds": 0.0, "training_seconds": 0.0, "tokens": 0, "flops": 0.0, "mfu": 0.0}
    first, *others = [stage for stage in run.stages if stage.config.reads != "preferences"]
    checkpoint.save(first)
    for stage in others:
        stage.link_model(first)
    for stage in (first, *others):
        made = {"parameters": checkpoint.parameter_count, "peak_memory_mb": round(machine.peak_memory_mb(), 1)}
        stage.write_result_and_clear_checkpoints(
            {"stage": stage.name, "imported": source, **nothing, **made, "metrics": {}}
        )
    run.write_report(machine.describe_machine())


def fit_recipe_to_context(recipe: Recipe, model_config: ModelConfig) -> Recipe:
    """The recipe for this model; rows that are longer than its context are made as long, and that is said."""
    stages = recipe.stages
    longer = {name: stage for name, stage in stages.items() if stage.train.max_length > model_config.context}
    if longer:
        warnings.warn(
            f"The model's context is {model_config.context} tokens: train.max_length of {', '.join(longer)} is lowered "
            f"to it, from {', '.join(str(stage.train.max_length) for stage in longer.values())}.",
            stacklevel=3,
        )
    shorter = {name: _with_length(stage, model_config.context) for name, stage in longer.items()}
    return recipe.with_parts({"model": model_config, **shorter})


def _with_length(stage: Any, length: int) -> Any:
    return dataclasses.replace(stage, train=dataclasses.replace(stage.train, max_length=length))


class _Opened(NamedTuple):
    """A checkpoint that is about to become a run. save: writes its weights into a stage."""

    config: ModelConfig
    parameter_count: int
    save: Callable[[StageFolder], None]
    tokenizer: Tokenizer


def _open(source: str | Path, chat_template_name: str | None, say: Callable[[str], None]) -> _Opened:
    file = find_gguf_file(source)
    if file is not None:
        model = load_gguf(file)
        tokenizer = load_gguf_tokenizer(file, chat_template_name, say)
        return _Opened(model.config, model.parameter_count, lambda stage: stage.save_model(model), tokenizer)
    folder = resolve_checkpoint(source)
    found = open_checkpoint(folder)
    tokenizer = load_tokenizer(folder, found.config.vocabulary, chat_template_name, say)
    found.check_finite()  # before a file of the run is written
    with torch.device("meta"):
        like = Transformer(found.config).state_dict()
    count = sum(tensor.numel() for tensor in like.values())
    return _Opened(found.config, count, lambda stage: stage.save_tensors(found.config, like, found.read), tokenizer)
