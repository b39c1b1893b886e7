"""Writing fast: reading a token, the filters and the draw as one compiled graph of fixed shapes.

Each number of rows and each length of the cache is a graph of its own, 10 to 20 seconds to compile on a CPU: for
thousands of tokens, not for one answer. On a CPU a step's time is that of reading weights; on CUDA that of launching
its kernels, which a CUDA graph does at once. So the steps are built differently (see `_build_step`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.decoding.filters import Allowed, Banned, Filter, any_needs_history, filter_logits
from labkit.decoding.generate import left_pad, sample_by_inverse_cdf
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.errors import LabError
from labkit.machine import compile_or_eager
from labkit.model.blocks import BlockState, State
from labkit.model.mixers import KVCache, SelfAttention
from labkit.model.transformer import Transformer

BUCKETS = {"cpu": 64, "cuda": 1024}
"""The cache is looked at up to a multiple of so many tokens: attention costs what is filled, not all that has room. On
CUDA the difference is small, and a graph more costs more.
"""
CHECKED = 8
"""Whether any row still goes on is asked every so many tokens: asking waits for the answer."""


SampleStep = Callable[[Tensor, Tensor], Tensor]
"""A token of each row [B], and a number in [0, 1) for each [B] -> the next token of each [B]."""


class StaticKVCache(NamedTuple):
    """`KVCache` whose next place is a tensor, so that one graph serves every place: [B, K, L, E] each. cache_position
    [1]: where the next token goes. attended_length: how many of the L places are looked at.
    """

    keys: Tensor
    values: Tensor
    cache_position: Tensor
    attended_length: int

    def append(self, keys: Tensor, values: Tensor) -> StaticKVCache:
        self.keys.index_copy_(2, self.cache_position, keys.to(self.keys.dtype))
        self.values.index_copy_(2, self.cache_position, values.to(self.values.dtype))
        return self

    def valid_keys_values(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, : self.attended_length], self.values[:, :, : self.attended_length]

    def select(self, rows: Tensor) -> StaticKVCache:
        return StaticKVCache(self.keys[rows], self.values[rows], self.cache_position, self.attended_length)


@dataclass
class StaticState(State):
    """A State of such blocks; what is not filled yet is hidden by its mask."""

    cache_position: Tensor = field(kw_only=True)

    def append_positions(self, mask: Tensor | None, positions: Tensor, num_new_tokens: int) -> None:
        """Note one real token, its positions [B, 1], at `cache_position`, which is a tensor: `length` stays as it is,
        as a compiled step knows no other place.
        """
        self.mask.index_fill_(1, self.cache_position, True)
        self.positions.index_copy_(1, self.cache_position, positions)


class CompiledGenerator:
    """Writes what `generate` writes, from the same draws, for a fixed number of rows at a time.

    max_length: tokens that the cache has room for, prompt and all; by default twice the context, since a short prompt
    is padded to the longest and has its own room after it. bf16: with a copy of the weights in bf16; else the model's
    own are used, and may go on being trained between calls. Raises LabError for a model with an encoder or without
    attention, and for filters that ask what was written.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        batch_size: int,
        max_length: int | None = None,
        filters: Sequence[Filter] = (),
        bf16: bool = False,
    ):
        if not supports_compiled_generation(model):
            raise LabError("Only decoder-only attention models can be compiled for generation; use generate.")
        if any_needs_history(filters):
            raise LabError("Filters that need the previous tokens cannot be compiled; use generate.")
        if any(isinstance(one, Banned | Allowed) for one in filters):  # nobody looks whether they leave a token
            raise LabError("Filters that ban or allow single tokens cannot be compiled; use generate.")
        if batch_size < 1:
            raise LabError(f"The batch size must be at least 1, not {batch_size}.")
        self.model, self.batch_size, self.filters = _in_bf16(model) if bf16 else model, batch_size, tuple(filters)
        config, like = model.config, self.model.embedding.weight
        self.length = 2 * config.context if max_length is None else max_length
        shape = (batch_size, config.attention_config.key_value_heads, self.length, config.attention_config.head_dim)
        self.caches = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.depth)]
        self.mask = torch.zeros(batch_size, self.length, dtype=torch.bool, device=like.device)
        self.positions = torch.zeros(batch_size, self.length, dtype=torch.int64, device=like.device)
        self.slot = torch.zeros(1, dtype=torch.int64, device=like.device)
        self.padding = torch.zeros(batch_size, 1, dtype=torch.int64, device=like.device)
        self.graphs: dict[tuple[int, bool], SampleStep] = {}
        if like.device.type == "cuda":
            self._fix_addresses()
        self.parameters = list(self.model.parameters())

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        generator: torch.Generator | None = None,
        uniform_draws: Tensor | None = None,
        keep_stop: bool = False,
    ) -> list[list[int]]:
        """The new tokens of each prompt, as `generate` gives them with the same generator or uniform_draws
        [P, 1, max_new_tokens]; it raises what that does.
        """
        for i, prompt in enumerate(prompts):
            check_prompt(self.model, prompt, f"Prompt {i}" if len(prompts) > 1 else "The prompt")
        check_generation_memory(self.model, self.batch_size, max(map(len, prompts), default=0), max_new_tokens)
        if uniform_draws is None:
            uniform_draws = torch.rand(len(prompts), 1, max_new_tokens, generator=generator)
        draws = uniform_draws[:, 0]
        parameters = list(self.model.parameters())
        if list(map(id, parameters)) != list(map(id, self.parameters)):  # others than those in the graphs
            self.graphs, self.parameters = {}, parameters
        written: list[list[int]] = []
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(prompts), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            written += self._write(prompts[chunk], draws[chunk], list(stop_ids), keep_stop)
        self.model.train(was_training)
        return written

    def _write(
        self, prompts: Sequence[Sequence[int]], draws: Tensor, stop_ids: list[int], keep_stop: bool
    ) -> list[list[int]]:
        """Up to `rows` prompts; the rows that are not needed write the first prompt's text again."""
        device, missing = self.slot.device, self.batch_size - len(prompts)
        tokens, positions, mask = (t.to(device) for t in left_pad([*prompts, *[prompts[0]] * missing]))
        draws = torch.cat((draws, draws[:1].expand(missing, -1))).to(device)
        T, context = tokens.shape[1], self.model.config.context
        rooms = [min(draws.shape[1], context - len(prompt)) for prompt in prompts]
        if T + max(rooms) > self.length:
            raise LabError(f"The cache has room for {self.length} tokens; these texts may have {T + max(rooms)}.")
        state = self.model.new_state(self.batch_size, T)
        logits = self.model.logits(self.model.hidden_states(tokens, positions, mask, state)[:, -1])
        self._take(state, positions)
        stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        new = [sample_by_inverse_cdf(filter_logits(self.filters, logits.float()), draws[:, 0])]
        ended = torch.zeros(self.batch_size, dtype=torch.bool, device=device)
        for step in range(1, max(rooms)):
            if stop_ids and step % CHECKED == 0:
                ended |= torch.isin(torch.stack(new[-CHECKED:], 1), stops).any(1)
                if ended.all():
                    break
            new.append(self._graph(T + step)(new[-1], draws[:, step]))
        rows = torch.stack(new, 1).tolist()[: len(prompts)]
        ends = [next((i for i, token in enumerate(row) if token in stop_ids), len(row)) for row in rows]
        return [row[: min(end + keep_stop, room)] for row, end, room in zip(rows, ends, rooms, strict=True)]

    def _take(self, state: State, positions: Tensor) -> None:
        """Copy what the prompts left into the fixed caches."""
        length = positions.shape[1]
        for (keys, values), block in zip(self.caches, state.blocks, strict=True):
            assert isinstance(block.mixer, KVCache)
            keys[:, :, :length], values[:, :, :length] = block.mixer.keys, block.mixer.values
        self.mask.zero_()
        self.mask[:, :length], self.positions[:, :length] = state.mask, state.positions
        self.slot.fill_(length)
        self.padding.copy_(length - 1 - positions[:, -1:])

    def _fix_addresses(self) -> None:
        """Let CUDA graphs write to the caches where they are, not to copies of them."""
        fixed = [
            self.mask,
            self.positions,
            self.slot,
            self.padding,
            *(tensor for pair in self.caches for tensor in pair),
        ]
        for tensor in fixed:
            torch._dynamo.mark_static_address(tensor)

    def _graph(self, filled: int) -> SampleStep:
        """The step that looks at no more of the cache than `filled` tokens need."""
        bucket = BUCKETS.get(self.slot.device.type, 64)
        seen = min(-(-filled // bucket) * bucket, self.length)
        key = seen, torch.is_autocast_enabled(self.slot.device.type)
        if key not in self.graphs:
            self.graphs[key] = _build_step(functools.partial(self._step, seen), self.slot.device)
        return self.graphs[key]

    def _step(self, seen: int, token: Tensor, u: Tensor) -> Tensor:
        """token [B], u [B] in [0, 1) -> the next token [B]."""
        blocks = [BlockState(StaticKVCache(keys, values, self.slot, seen)) for keys, values in self.caches]
        state = StaticState(blocks, self.mask, self.positions, seen, cache_position=self.slot)
        # What a row writes beyond the context is not read.
        position = (self.slot - self.padding).clamp(max=self.model.config.context - 1)  # [B, 1]
        logits = self.model.logits(self.model.hidden_states(token.unsqueeze(-1), position, None, state))[:, -1].float()
        self.slot += 1
        return sample_by_inverse_cdf(filter_logits(self.filters, logits), u)


def supports_compiled_generation(model: Transformer) -> bool:
    """Whether a `CompiledGenerator` can write with this model: one of attention, without an encoder."""
    return isinstance(model.config.mixer, SelfAttention) and model.encoder is None


def _in_bf16(model: Transformer) -> Transformer:
    """A copy with its parameters in bf16; what is worked out of positions stays as it is."""
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        parameter.data = parameter.data.bfloat16()
    return made


def _build_step(sample_step: SampleStep, device: torch.device) -> SampleStep:
    """The step compiled for a device; as it is on mps."""
    if device.type == "cuda":
        return _cuda_graph_step(sample_step)
    return _CPUSampleStep(sample_step) if device.type == "cpu" else sample_step


def _cuda_graph_step(sample_step: SampleStep) -> SampleStep:
    """The step as a CUDA graph, by torch.compile's "reduce-overhead"."""
    run = compile_or_eager(sample_step, "generation", fullgraph=True, mode="reduce-overhead")

    def step(token: Tensor, u: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run(token, u.clone()).clone()  # the next step writes over what a CUDA graph returns

    return step


class _CPUSampleStep:
    """A step that is compiled when first called, and then called without asking again whether it still fits, which
    costs a small model a fifth of its time: but for its two arguments, it reads and writes the same tensors each time.
    """

    def __init__(self, sample_step: SampleStep):
        self.first = compile_or_eager(sample_step, "generation", fullgraph=True, backend=self._build)
        self.run: Callable[..., Sequence[Tensor]] | None = None
        self.inputs: list[Tensor] = []
        self.places: list[int] = []

    def __call__(self, token: Tensor, u: Tensor) -> Tensor:
        if self.run is None or not self.inputs:
            found = self.first(token, u)
            self.places = [i for one in (token, u) for i, tensor in enumerate(self.inputs) if tensor is one]
            return found
        for place, tensor in zip(self.places, (token, u), strict=True):
            self.inputs[place] = tensor
        return self.run(*self.inputs)[0]

    def _build(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Sequence[Tensor]]:
        """torch.compile's own backend, but that a layer which reads one row is a sum of products: on a CPU the compiler
        reads the weights at twice the speed of the library's matrix product, and they are all that such a step costs.
        """
        for node in graph.graph.nodes:
            if node.target is F.linear and node.args[0].meta["example_value"].shape[:-1].numel() == 1:
                node.target = _one_row
        graph.recompile()
        run = self.run = torch._inductor.compile(graph, inputs, options={"cpp_wrapper": True})

        def call(*given: Tensor) -> Any:
            self.inputs = self.inputs or list(given)
            return run(*given)

        return call


def _one_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of x [..., I] with one row: weight [O, I] -> [..., O]."""
    y = (weight * x.reshape(1, -1)).sum(-1, dtype=torch.float32)
    return (y if bias is None else y + bias).to(x.dtype).expand(*x.shape[:-1], -1)
