"""Answers of a study's models to held-out prompts, and what is measured of each; kept in files, so that nothing that is
finished is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from labkit.decoding import generate
from labkit.evaluation.policies import (
    HeldOutPrompts,
    OracleScores,
    greedy_answer_ids,
    held_out_prompts,
    oracle_scores,
)
from labkit.files import DamagedFile, atomic_replace
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.stages import StageInputs
from labkit.text.batch import batch_with_last_token_index
from labkit.text.tokenizer import Tokenizer

MAX_NEW_TOKENS = 40
"""Where all answers are cut; in TinyWorld few are longer than 30 tokens."""
Arrays = dict[str, NDArray[Any]]
Answers = Sequence[Sequence[int]]


class Asked(NamedTuple):
    """The held-out prompts of a seed, the same for all of its models. draws [P, n, max_new_tokens]: the randomness of n
    sampled answers to each.
    """

    prompts: HeldOutPrompts
    max_new_tokens: int
    draws: torch.Tensor


def ask(stage_inputs: StageInputs, num_prompts: int, max_new_tokens: int, num_samples: int = 1) -> Asked:
    """The prompts that the run's own stages are measured on, as many as leave room for an answer in the context."""
    assert stage_inputs.model_config is not None
    prompts = held_out_prompts(stage_inputs, num_prompts, stage_inputs.model_config.context, max_new_tokens)
    drawn = torch.Generator().manual_seed(stage_inputs.seed)
    draws = torch.rand(len(prompts.prompt_ids), num_samples, max_new_tokens, generator=drawn)
    return Asked(prompts, max_new_tokens, draws)


def sampled_answers(model: Transformer, tokenizer: Tokenizer, asked: Asked) -> list[list[int]]:
    """Answers that the model draws at temperature 1, those to one prompt side by side: ids, with the end token."""
    return generate(
        model,
        asked.prompts.prompt_ids,
        max_new_tokens=asked.max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        uniform_draws=asked.draws,
        num_return_sequences=asked.draws.shape[1],
        batch_size=256,
        keep_stop=True,
    )


@torch.no_grad()
def kl_of_answers(
    policy: Transformer,
    reference: Transformer,
    tokenizer: Tokenizer,
    prompts: Answers,
    answers: Answers,
    batch_size: int = 64,
) -> NDArray[Any]:
    """KL(policy || reference) of a whole answer, estimated from an answer that the policy drew to each of P prompts:
    [P] nats.

    The sum over its tokens of the exact KL between both models' next-token distributions: unbiased as the difference
    of log-probabilities is, never below 0, and of less variance (Amini et al. 2025, https://arxiv.org/abs/2504.10637).
    """
    context, device = policy.config.context, policy.embedding.weight.device
    found = []
    for start in range(0, len(prompts), batch_size):
        both = zip(prompts[start : start + batch_size], answers[start : start + batch_size], strict=True)
        rows = [([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)) for prompt, answer in both]
        batch = batch_with_last_token_index(rows, context, tokenizer.pad_token_id)[0].to(device)
        ours, theirs = (
            model.logits(model.hidden_states(batch.inputs)[batch.mask]).float().log_softmax(-1)
            for model in (policy.eval(), reference.eval())
        )  # [N, V] of the N tokens of answers
        per_token = (ours.exp() * (ours - theirs)).sum(-1).double()
        per_row = per_token.new_zeros(batch.mask.shape).masked_scatter(batch.mask, per_token).sum(-1)
        found.append(per_row.cpu().numpy())
    return np.concatenate(found)


def kept_arrays(file: Path, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `file` keeps of this key, a value that JSON can write; else made, and kept there."""
    words = json.dumps(key, sort_keys=True)
    if file.is_file():
        try:
            with safe_open(file, "np") as opened:
                if (opened.metadata() or {}).get("key") == words:
                    names = opened.keys()
                    return {name: opened.get_tensor(name) for name in names}
        except Exception as error:
            raise DamagedFile(f"{file} cannot be read: {error}. Remove it to measure again.") from error
    arrays = {name: np.ascontiguousarray(array) for name, array in make().items()}  # else read in another order
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replace(file) as partial:
        save_file(arrays, partial, metadata={"key": words})
    return arrays


def greedy_oracle_scores(
    study: str, stage_inputs: StageInputs, num_prompts: int, run: Run, stage: str, annotators: Sequence[str]
) -> dict[str, OracleScores]:
    """{ANNOTATOR: what the oracle says under its profile} of the greedy answers of a stage's model to held-out prompts,
    those of `stage_inputs`; kept in the run's folder, for one study.
    """

    def measure() -> Arrays:
        asked, tokenizer = ask(stage_inputs, num_prompts, MAX_NEW_TOKENS), stage_inputs.tokenizer
        answers = greedy_answer_ids(run.model(stage), tokenizer, asked.prompts.prompt_ids, asked.max_new_tokens)
        arrays: Arrays = {}
        for annotator in annotators:
            scores = oracle_scores(stage_inputs.world, annotator, tokenizer, asked.prompts.tasks, answers)
            arrays |= {f"{annotator}.{name}": column.astype(float) for name, column in scores._asdict().items()}
        return arrays

    key = {
        "prompts": num_prompts,
        "seed": stage_inputs.seed,
        "annotators": list(annotators),
        "model": run.stage(stage).weights_hash,
    }
    arrays = kept_arrays(run.path / f"study-{study}" / f"{stage}.safetensors", key, measure)
    return {one: OracleScores(*(arrays[f"{one}.{name}"] for name in OracleScores._fields)) for one in annotators}
