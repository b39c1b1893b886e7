"""Beam search: the most probable texts, looked for with several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from labkit.decoding.filters import (
    Filter,
    History,
    check_tokens_remain,
    filter_logits,
    logits_before_and_after_each_filter,
)
from labkit.decoding.prompts import check_generation_memory, check_prompt
from labkit.decoding.stops import StopStrings
from labkit.errors import LabError
from labkit.model.context import EncoderOutput
from labkit.model.transformer import Transformer

EarlyStopping = bool | Literal["never"]
IMPOSSIBLE = -1e30
"""The log-probability of a beam that is none; finite, so that what is added to it is no NaN."""
BeamOutcome = Literal["kept", "ended", "pruned"]


class BeamNode(NamedTuple):
    """A step of one beam: the node that it goes on from (-1: the prompt), the token, the log-probability of all so far,
    how far along it stands, and how it ended.
    """

    parent: int
    token: int
    cumulative_logprob: float
    step: int
    outcome: BeamOutcome


class Beam(NamedTuple):
    """A text that was found: its new tokens (without the one that ends it), its log-probability in nats, that divided
    by length^length_penalty, and whether it was ended by a stop token.
    """

    tokens: list[int]
    cumulative_logprob: float
    score: float
    ended: bool


class BeamSearchOutput(NamedTuple):
    """The texts, best first, and every step that was weighed on the way."""

    hypotheses: list[Beam]
    tree: list[BeamNode]


def beam_search(model: Transformer, prompt: Sequence[int], **options: Any) -> BeamSearchOutput:
    """The last of `beam_steps`, which takes the same arguments: the texts that were found."""
    return deque(beam_steps(model, prompt, **options), maxlen=1).pop()


@torch.no_grad()
def beam_steps(
    model: Transformer,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stop: StopStrings | None = None,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    groups: int = 1,
    diversity: float = 0.0,
    filters: Sequence[Filter] = (),
    memory: EncoderOutput | None = None,
) -> Iterator[BeamSearchOutput]:
    """The `beams` best texts by log-probability / length^length_penalty, the stop token counted.

    early_stopping, as in transformers: True ends when as many texts have ended as there are beams; False when no beam,
    were it to end now, could beat the worst of these; "never" takes into account that a longer text can gain by its
    length. groups, diversity: Diverse Beam Search, https://arxiv.org/abs/1610.02424: the beams go in so many groups one
    after another, and each is held back by `diversity` nats for every earlier group's beam that took the same token.
    filters: of each beam's log-probabilities. memory: what the encoder made, of one row. What stands is yielded after
    each step: the beams that are still open as long as none has ended. Raises LabError for settings that make no sense,
    for a prompt that is empty or leaves no room in the context, and where filters leave no token before any beam ends.
    """
    _check(beams, groups, diversity, length_penalty)
    check_prompt(model, prompt)
    check_generation_memory(model, beams, len(prompt), max_new_tokens)
    room = min(max_new_tokens, model.config.context - len(prompt))
    width, device = beams // groups, model.embedding.weight.device
    pools = [_Pool(width, length_penalty, early_stopping, room, stop) for _ in range(groups)]
    tree: list[BeamNode] = []
    model.eval()
    state = model.new_state(1, len(prompt) + room)
    x = model.hidden_states(torch.tensor([list(prompt)], device=device), state=state, memory=memory)[:, -1:]
    first = torch.zeros(beams, dtype=torch.int64, device=device)
    state, x = state.select(first), x[first]
    wide = memory and EncoderOutput(
        memory.hidden_states.expand(beams, -1, -1), memory.attention_bias.expand(beams, -1, -1)
    )
    for step in range(room):
        history = History(_written(prompt, pools, step).to(device), len(prompt))
        raw = model.logits(x).squeeze(1).float().log_softmax(-1)
        logprobs = filter_logits(filters, raw, history).cpu()
        _advance(pools, logprobs.split(width), diversity, set(stop_ids), step, tree)
        if not any(pool.finished or pool.open for pool in pools):
            check_tokens_remain(filters, logits_before_and_after_each_filter(filters, raw, history))
        if not any(pool.open for pool in pools):
            break
        yield _standing(pools, tree)
        rows = torch.tensor([g * width + beam.row for g, pool in enumerate(pools) for beam in pool.running])
        state = state.select(rows.to(device))
        latest = [(beam.tokens or prompt)[-1:] for pool in pools for beam in pool.running]
        tokens = torch.tensor(latest, device=device)
        x = model.hidden_states(tokens, state=state, memory=wide)
    yield _standing(pools, tree)


def _advance(
    pools: Sequence[_Pool],
    logprobs: Sequence[Tensor],
    diversity: float,
    stops: set[int],
    step: int,
    tree: list[BeamNode],
) -> None:
    """Each group's beams take a token, held back by `diversity` nats for every earlier beam that took the same."""
    taken = torch.zeros(logprobs[0].shape[-1])
    for pool, own in zip(pools, logprobs, strict=True):
        if pool.open:
            pool.advance(own, own - diversity * taken, stops, step, tree, last=step + 1 == pool.room)
        for beam in pool.running:
            if beam.tokens:
                taken[beam.tokens[-1]] += 1


def _standing(pools: Sequence[_Pool], tree: list[BeamNode]) -> BeamSearchOutput:
    found = [beam for pool in pools for beam in pool.finished]
    if not found:
        running = [beam for pool in pools for beam in pool.running if beam.held > IMPOSSIBLE / 2]
        found = [Beam(beam.tokens, beam.logprob, beam.held, False) for beam in running]
    return BeamSearchOutput(sorted(found, key=lambda beam: -beam.score), tree)


def _written(prompt: Sequence[int], pools: Sequence[_Pool], step: int) -> Tensor:
    """Prompt and text of all beams [beams, T + step]; the rows of a group that has ended are filled up with -1."""
    texts = [beam.tokens for pool in pools for beam in pool.running]
    return torch.tensor([[*prompt, *tokens, *[-1] * (step - len(tokens))] for tokens in texts])


class _Running(NamedTuple):
    """A beam that is still written: the row of its state, its tokens, its log-probability, the same less what diversity
    takes, and its node in the tree.
    """

    row: int
    tokens: list[int]
    logprob: float
    held: float
    node: int


class _Pool:
    """The beams of one group, those that are written and those that have ended."""

    def __init__(
        self, width: int, length_penalty: float, early_stopping: EarlyStopping, room: int, stop: StopStrings | None
    ):
        self.width, self.length_penalty, self.early_stopping = width, length_penalty, early_stopping
        self.room, self.stop = room, stop
        # All begin as the same prompt: only the first may be gone on from, or all beams would be one.
        starts = [0.0, *[IMPOSSIBLE] * (width - 1)]
        self.running = [_Running(row, [], start, start, -1) for row, start in enumerate(starts)]
        self.finished: list[Beam] = []
        self.open = True

    def advance(self, own: Tensor, held: Tensor, stops: set[int], step: int, tree: list[BeamNode], last: bool) -> None:
        """Take the best next tokens of all beams: own [width, V] are log-probabilities, held the same less what
        diversity takes, by which they are ranked.
        """
        V = own.shape[-1]
        so_far = torch.tensor([beam.held for beam in self.running]).unsqueeze(-1)
        wanted = min(max(2, 1 + len(stops)) * self.width, self.width * V)  # enough to go on when all others end
        values, places = (so_far + held).flatten().topk(wanted)
        running: list[_Running] = []
        ended: list[Beam] = []
        for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            if value < IMPOSSIBLE / 2:
                break
            row, token = divmod(place, V)
            before = self.running[row]
            logprob, tokens = before.logprob + float(own[row, token]), [*before.tokens, token]
            said = self.stop is not None and self.stop.ends_with_stop(tokens)
            stops_here = said or token in stops
            fate: BeamOutcome = "pruned"
            if (stops_here or last) and rank < self.width:
                score = value / (step + 1) ** self.length_penalty
                tokens = (
                    self.stop.cut_at_stop(tokens) if self.stop and said else before.tokens if stops_here else tokens
                )
                ended.append(Beam(tokens, logprob, score, stops_here))
                fate = "ended"
            elif not (stops_here or last) and len(running) < self.width:
                running.append(_Running(row, tokens, logprob, value, len(tree)))
                fate = "kept"
            tree.append(BeamNode(before.node, token, logprob, step, fate))
        if not (self.early_stopping is True and len(self.finished) == self.width):
            self.finished = sorted([*self.finished, *ended], key=lambda beam: -beam.score)[: self.width]
        self.open = bool(running)
        self.running = running or self.running  # whose rows stay in the batch, so that the other groups' do
        self.open = self.open and not self._settled(step + 1)
        while self.open and len(self.running) < self.width:  # fewer than beams are possible
            self.running.append(self.running[-1]._replace(held=IMPOSSIBLE))

    def _settled(self, length: int) -> bool:
        """Whether no beam can any more displace one that has ended."""
        if len(self.finished) < self.width:
            return False
        if self.early_stopping is True:
            return True
        hoped = self.room if self.early_stopping == "never" and self.length_penalty > 0 else length
        return self.running[0].held / hoped**self.length_penalty <= self.finished[-1].score


def _check(beams: int, groups: int, diversity: float, length_penalty: float) -> None:
    if beams < 1:
        raise LabError(f"Beam search needs at least one beam, not {beams}.")
    if groups < 1 or beams % groups:
        raise LabError(f"{beams} beams cannot be split into {groups} groups of equal size.")
    if not 0 <= diversity <= 1e6:
        raise LabError(f"The diversity penalty must be from 0 to 1,000,000 nats, not {diversity:g}.")
    if not -20 <= length_penalty <= 20:
        raise LabError(f"The length penalty must be an exponent from -20 to 20, not {length_penalty:g}.")
