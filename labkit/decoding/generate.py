"""Generate from many prompts at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.decoding.filters import Filter, History, any_needs_history, filter_and_check_logits
from labkit.decoding.prompts import check_generation_memory, check_prompt, run_encoder
from labkit.decoding.stops import StopStrings
from labkit.errors import LabError
from labkit.model.context import EncoderOutput
from labkit.model.transformer import Transformer


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    filters: Sequence[Filter] = (),
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    generator: torch.Generator | None = None,
    uniform_draws: Tensor | None = None,
    encoder_prompts: Sequence[Sequence[int]] | None = None,
    batch_size: int = 64,
    num_return_sequences: int = 1,
    keep_stop: bool = False,
) -> list[list[int]]:
    """The new tokens of each prompt, in the prompts' order, ending before its stop token or stop text.

    keep_stop: a stop token that was drawn stays at the end of its row.

    num_return_sequences: how many answers to each prompt, one after another in the result; the prompt is read once for
    all. encoder_prompts: what an encoder reads, one for each prompt; the prompt is then how the decoder begins.
    uniform_draws [P, samples, max_new_tokens]: numbers in [0, 1) to use in place of the generator's. filters: applied
    in their order to the logits; none samples from the model as it is, ``[Temperature(0)]`` is greedy. A row also ends
    after max_new_tokens, and when the model's context is full. generator: where randomness comes from, one of the CPU's
    on every device (torch's own when None); each row has its own draws, so what it writes depends neither on
    ``batch_size``, how many are written at a time, nor on the rows beside it. Raises LabError for a prompt that is
    empty or leaves no room in the context, for an encoder without a prompt, and where filters leave no token.
    """
    if batch_size < 1 or num_return_sequences < 1:
        raise LabError(
            f"batch_size and num_return_sequences must be at least 1, not {batch_size} and {num_return_sequences}."
        )
    for i, prompt in enumerate(prompts):
        check_prompt(model, prompt, f"Prompt {i}" if len(prompts) > 1 else "The prompt")
    longest = max(map(len, prompts), default=0)
    check_generation_memory(
        model, min(max(batch_size, num_return_sequences), len(prompts) * num_return_sequences), longest, max_new_tokens
    )
    if uniform_draws is None:
        uniform_draws = torch.rand(len(prompts), num_return_sequences, max_new_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    written: list[list[list[int]]] = [[] for _ in prompts]
    together = max(1, batch_size // num_return_sequences)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), together):
        chunk = order[start : start + together]
        memory = run_encoder(model, None if encoder_prompts is None else [encoder_prompts[i] for i in chunk])
        asked = [prompts[i] for i in chunk]
        answers = _write(model, asked, filters, uniform_draws[chunk], list(stop_ids), stop, memory, keep_stop)
        for place, i in enumerate(chunk):
            written[i] = answers[place * num_return_sequences : (place + 1) * num_return_sequences]
    model.train(was_training)
    return [answer for answers in written for answer in answers]


def _write(
    model: Transformer,
    prompts: list[Sequence[int]],
    filters: Sequence[Filter],
    draws: Tensor,
    stop_ids: list[int],
    stop: StopStrings | None,
    memory: EncoderOutput | None,
    keep_stop: bool,
) -> list[list[int]]:
    """Generate from P prompts, S samples each; draws [P, S, N] in [0, 1) are their randomness -> B = P S rows."""
    tokens, positions, mask = left_pad(prompts)
    device = model.embedding.weight.device
    tokens, positions, mask, draws = (t.to(device) for t in (tokens, positions, mask, draws))
    read = tokens.where(mask, -1)  # [P, T]
    stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
    state = model.new_state(len(prompts), tokens.shape[1] + draws.shape[2])
    x = model.hidden_states(tokens, positions, mask, state, memory=memory)[:, -1:]
    samples, draws = draws.shape[1], draws.flatten(0, 1)  # [B, N]
    if samples > 1:
        prompt = torch.arange(len(prompts), device=device).repeat_interleave(samples)
        state, x, positions, mask = state.select(prompt), x[prompt], positions[prompt], mask[prompt]
        read, memory = read[prompt], memory and memory.select(prompt)
    positions = positions[:, -1:]
    room = model.config.context - mask.sum(-1)  # [B]
    new = torch.zeros(draws.shape, dtype=torch.int64, device=device)  # [B, N]
    lengths = torch.zeros_like(room)  # how many tokens of each row count
    stopped = torch.zeros_like(room)  # 1 for each row that drew a stop token
    rows = torch.arange(len(draws), device=device)  # which rows are still in the batch
    writing = torch.ones_like(rows, dtype=torch.bool)  # and which of these have not ended
    for step in range(draws.shape[1]):
        history = (
            History(torch.cat((read[rows], new[rows, :step]), 1), read.shape[1]) if any_needs_history(filters) else None
        )
        logits = filter_and_check_logits(filters, model.logits(x).squeeze(1).float(), history, writing)  # [B, V]
        token = sample_by_inverse_cdf(logits, draws[rows, step])
        new[rows, step] = token
        drawn_stop = writing & torch.isin(token, stops)
        stopped[rows] += drawn_stop
        writing = writing & ~drawn_stop
        lengths[rows] += writing
        writing = writing & (lengths[rows] < room[rows])
        if stop is not None:
            ended = [stop.ends_with_stop(row) for row in new[rows, : step + 1].tolist()]
            writing = writing & ~torch.tensor(ended, device=device)
        if step + 1 == draws.shape[1] or not writing.any():
            break
        if 2 * writing.sum() <= len(rows):
            keep = writing.nonzero().squeeze(-1)
            rows, token, positions, writing = rows[keep], token[keep], positions[keep], writing[keep]
            state, memory = state.select(keep), memory and memory.select(keep)
        # A row that has ended but is still here stays within the context; what it writes is not read.
        positions = (positions + 1).clamp(max=model.config.context - 1)
        x = model.hidden_states(token.unsqueeze(-1), positions, None, state, memory=memory)
    lengths = lengths + stopped if keep_stop else lengths
    written = [row[:length] for row, length in zip(new.tolist(), lengths.tolist(), strict=True)]
    return written if stop is None else [stop.cut_at_stop(row) for row in written]


class LeftPadded(NamedTuple):
    """Prompts padded on the left so that all end in the last column, each field [B, T]. Each prompt's own positions
    start at 0; the mask is True for its tokens and False for the padding before them.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor


def left_pad(prompts: Sequence[Sequence[int]]) -> LeftPadded:
    """Prompts of any lengths as one batch."""
    T = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[0] * (T - len(prompt)) + list(prompt) for prompt in prompts])
    columns = torch.arange(T)
    padding = torch.tensor([[T - len(prompt)] for prompt in prompts])
    return LeftPadded(tokens, (columns - padding).clamp(min=0), columns >= padding)


def sample_by_inverse_cdf(logits: Tensor, uniform_draws: Tensor) -> Tensor:
    """The token [B] at which the running sum of softmax(logits [B, V]) first passes uniform_draws [B], a number in [0,
    1).

    Summed in double precision (on the CPU, where mps has none), so that a token of probability 0 is never drawn by
    rounding.
    """
    place = torch.device("cpu") if logits.device.type == "mps" else logits.device
    passed = logits.softmax(-1).to(place).double().cumsum(-1)
    draws = uniform_draws.to(place).double().unsqueeze(-1) * passed[:, -1:]
    return torch.searchsorted(passed, draws, right=True).squeeze(-1).to(logits.device)
