"""One text as one model reads it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.interpret.taps import AblateHeads, AblationKind, ActivationRecorder, HeadRef
from labkit.model.mixers import SelfAttention
from labkit.model.taps import Tap, no_tap
from labkit.model.transformer import Transformer
from labkit.text.tokenizer import Tokenizer

ROWS = 32
"""Copies of a text that are read at once, each without another head."""


class AttentionMap(NamedTuple):
    """One kind of attention in a model. kind: "causal", "bidirectional" or "cross". name_template: how its layers are
    named, "{}" standing for the number. rows, columns: the pieces of text that look, and that are looked at. weights
    [L, H, T, S]: in fp32; row i says how much token i takes from each, and adds up to 1. key_value_heads: K, shared by
    the H.
    """

    kind: Literal["causal", "bidirectional", "cross"]
    name_template: str
    rows: list[str]
    columns: list[str]
    weights: Tensor
    key_value_heads: int


class TopKey(NamedTuple):
    """One of the keys that a query looks at most: its column, the score and weight of the pair, and the length (the L2
    norm) of its value.
    """

    column: int
    score: float
    weight: float
    value_norm: float


class ScoreBreakdown(NamedTuple):
    """Where one weight comes from: score = dot · scale + position_bias, weight = e^score / Σ e^score over what the
    token sees. top_keys: of that row the largest. head_dim: numbers in q and k.
    """

    dot: float
    scale: float
    position_bias: float
    score: float
    weight: float
    head_dim: int
    top_keys: list[TopKey]


class TokenProbabilityChange(NamedTuple):
    """The text of a token, and how probable it is before and after."""

    text: str
    before: float
    after: float


class PredictionShift(NamedTuple):
    """How a distribution of the next token changes: nats of Kullback-Leibler divergence from before to after, and the
    leading tokens.
    """

    kl_nats: float
    top_tokens: list[TokenProbabilityChange]


class Inspection:
    """What a model does while it reads a text; it is the same model afterwards.

    ids: the text; of an encoder-decoder, what is written, with `encoder_prompt` the text that its encoder reads. Raises
    LabError for no token, more than its context, and a model without attention.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], encoder_prompt: Sequence[int] | None = None
    ):
        context = model.config.context
        for given in (ids, encoder_prompt):
            if given is not None and not 0 < len(given) <= context:
                raise LabError(f"The text has {len(given)} tokens; give 1 to {context}.")
        if not isinstance(model.config.mixer, SelfAttention):
            raise LabError(f"This model has no attention: its mixer is {type(model.config.mixer).__name__}.")
        self.model, self.tokenizer, self.ids, self.encoder_prompt = model, tokenizer, list(ids), encoder_prompt
        recorder = ActivationRecorder((".weights", ".scores", ".query", ".key", ".value", "embedding", ".output"))
        self.logits = self._read([None], recorder)[0]
        self.activations = recorder.activations
        self.attention_maps = list(self._maps())

    @torch.no_grad()
    def _read(
        self, without: Sequence[HeadRef | None], tap: Tap, kind: AblationKind = "zero", position: int | None = None
    ) -> Tensor:
        """Logits [B, T, V] (after one token alone: [B, 1, V]) of as many copies of the text, each without a head."""
        ablate, model = AblateHeads(without, kind), self.model
        device, rows = model.embedding.weight.device, len(without)

        def both(name: str, x: Tensor) -> Tensor:
            return tap(name, ablate(name, x))

        was_training = model.training
        model.eval()
        memory = None
        if self.encoder_prompt is not None:
            memory = model.encode(torch.tensor([list(self.encoder_prompt)], device=device).expand(rows, -1), tap=both)
        x = model.hidden_states(torch.tensor([self.ids], device=device).expand(rows, -1), tap=both, memory=memory)
        logits = model.logits(x if position is None else x[:, position, None]).float()
        model.train(was_training)
        return logits

    def _maps(self) -> Any:
        K, tokens = self.model.config.attention_config.key_value_heads, self.token_texts(self.ids)
        encoder_texts = [] if self.encoder_prompt is None else self.token_texts(self.encoder_prompt)
        if self.encoder_prompt is not None:
            yield AttentionMap(
                "bidirectional", "encoder.blocks.{}.attention", encoder_texts, encoder_texts, self._stack("encoder."), K
            )
        kind: Literal["causal", "bidirectional"] = "causal" if self.model.causal else "bidirectional"
        yield AttentionMap(kind, "blocks.{}.attention", tokens, tokens, self._stack("blocks.", ".attention"), K)
        if self.encoder_prompt is not None:
            yield AttentionMap("cross", "blocks.{}.cross", tokens, encoder_texts, self._stack("blocks.", ".cross"), K)

    def _stack(self, start: str, end: str = "") -> Tensor:
        found = [
            x for name, x in self.activations.items() if name.startswith(start) and name.endswith(f"{end}.weights")
        ]
        return torch.cat(found)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Each token as it is written."""
        return [self.tokenizer.token_text(token) for token in ids]

    def head_ref(self, map_index: int, layer: int, head: int) -> HeadRef:
        """A head by its numbers. Raises LabError for one that is not there."""
        if not 0 <= map_index < len(self.attention_maps):
            raise LabError(f"There is no attention map {map_index}: this model has {len(self.attention_maps)}.")
        L, H = self.attention_maps[map_index].weights.shape[:2]
        if not (0 <= layer < L and 0 <= head < H):
            raise LabError(
                f"There is no head {head} in layer {layer}: there are {L} layers of {H} heads, counted from 0."
            )
        return HeadRef(self.attention_maps[map_index].name_template.format(layer), head)

    def score_breakdown(
        self, map_index: int, layer: int, head: int, row: int, column: int, top_n: int = 6
    ) -> ScoreBreakdown:
        """The arithmetic of the weight with which token `row` looks at token `column`. Raises LabError for a head or
        token that is not there.
        """
        where, _ = self.head_ref(map_index, layer, head)
        weights = self.attention_maps[map_index].weights[layer, head]
        if not (0 <= row < weights.shape[0] and 0 <= column < weights.shape[1]):
            raise LabError(f"There is no pair of tokens ({row}, {column}) among {tuple(weights.shape)}.")
        if self.attention_maps[map_index].kind == "causal" and column > row:
            raise LabError(
                f"Token {row} cannot attend to token {column}: causal attention does not attend to later tokens."
            )
        scale = self.model.config.attention_config.softmax_scale
        shared = head * self.attention_maps[map_index].key_value_heads // self.model.config.heads
        q, k, v = (self.activations[f"{where}.{part}"][0] for part in ("query", "key", "value"))
        dot = float(q[head, row] @ k[shared, column])
        scores, lengths = self.activations[f"{where}.scores"][0, head, row], v[shared].norm(dim=-1)
        score = float(scores[column])
        most = weights[row].topk(min(top_n, weights.shape[1])).indices.tolist()
        listed = [
            TopKey(j, float(scores[j]), float(weights[row, j]), float(lengths[j])) for j in most if weights[row, j] > 0
        ]
        return ScoreBreakdown(dot, scale, score - dot * scale, score, float(weights[row, column]), q.shape[-1], listed)

    def ablate(
        self,
        map_index: int,
        layer: int,
        head: int,
        kind: AblationKind = "zero",
        top_n: int = 6,
        prediction_position: int | None = None,
    ) -> PredictionShift:
        """What is predicted after the token in this place (the last when not given) without a head. Raises LabError for
        a head or a token that is not there.
        """
        position = self._place(prediction_position)
        _check_kind(kind)
        after = self._read([self.head_ref(map_index, layer, head)], no_tap, kind, position)[0, -1]
        return self.prediction_shift(after, top_n, position)

    def _place(self, position: int | None) -> int:
        last = len(self.ids) - 1
        if position is not None and not 0 <= position <= last:
            raise LabError(f"There is no token {position} in this text: there are {last + 1}, counted from 0.")
        return last if position is None else position

    def prediction_shift(self, new_logits: Tensor, top_n: int = 6, prediction_position: int = -1) -> PredictionShift:
        """From the prediction after the token at `prediction_position` to that of new_logits [V]."""
        before, after = self.logits[prediction_position].log_softmax(-1).cpu(), new_logits.log_softmax(-1).cpu()
        most = before.topk(min(top_n, len(before))).indices.tolist()
        most += [token for token in after.topk(min(top_n // 2, len(after))).indices.tolist() if token not in most]
        p, q = before.exp(), after.exp()
        listed = [
            TokenProbabilityChange(self.tokenizer.token_text(token), float(p[token]), float(q[token])) for token in most
        ]
        return PredictionShift(float(kl_divergence(before, after)), listed)

    def ablation_effects(
        self, map_index: int, kind: AblationKind = "zero", prediction_position: int | None = None
    ) -> Tensor:
        """How much the prediction after the token in this place (the last when not given) changes without each head, in
        nats: [L, H]. Raises LabError for an attention or a token that is not there.
        """
        self.head_ref(map_index, 0, 0)
        position = self._place(prediction_position)
        _check_kind(kind)
        L, H = self.attention_maps[map_index].weights.shape[:2]
        heads = [self.head_ref(map_index, layer, head) for layer in range(L) for head in range(H)]
        before = self.logits[position].log_softmax(-1)
        found = []
        for start in range(0, len(heads), ROWS):
            after = self._read(heads[start : start + ROWS], no_tap, kind, position)[:, -1].log_softmax(-1)
            found.append(kl_divergence(before, after))
        return torch.cat(found).view(L, H).cpu()

    @torch.no_grad()
    def logit_lens(self, top_n: int = 3, last_tokens: int | None = None) -> list[list[list[tuple[str, float]]]]:
        """What the model would say if it ended after each layer: [1 + L][T][top_n] of (text, probability), the first
        of the embeddings alone. last_tokens: of so many tokens at the end; of all when not given.

        The logit lens: https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
        """
        names = ["embedding", *(f"blocks.{i}.output" for i in range(self.model.config.depth))]
        device = self.model.embedding.weight.device
        found = []
        for name in names:
            x = self.model.norm(self.activations[name][:, -last_tokens if last_tokens else 0 :].to(device))
            shares, tokens = self.model.logits(x)[0].float().softmax(-1).topk(top_n)
            rows = zip(tokens.tolist(), shares.tolist(), strict=True)
            found.append([[(self.tokenizer.token_text(t), p) for t, p in zip(*row, strict=True)] for row in rows])
        return found

    def attention_viewer_data(self) -> dict[str, Any]:
        """What the viewer reads, {"maps": [{"kind", "rows", "columns", "layers", "heads", "key_value_heads",
        "weights"}]}: the weights of all layers and heads as 16-bit numbers (0 to 65535, the low byte first) in base64;
        of causal attention only what a token can see, 1 + 2 + … + T numbers a head.

        That is a tenth of the same numbers as JSON, and every percentage that a page shows is made of them.
        """
        return {"maps": [_packed(map_) for map_ in self.attention_maps]}


def kl_divergence(logprobs_before: Tensor, logprobs_after: Tensor) -> Tensor:
    """Kullback-Leibler divergence of log-probabilities [..., V], in nats: [...]; what `logprobs_before` forbids adds
    nothing.
    """
    apart = (logprobs_before - logprobs_after).masked_fill(logprobs_before == -torch.inf, 0.0)
    return (logprobs_before.exp() * apart).sum(-1).clamp(min=0)


def _check_kind(kind: str) -> None:
    if kind not in ("zero", "mean"):
        raise LabError(f"A head can be ablated by zero or mean, not {kind!r}.")


def _packed(map_: AttentionMap) -> dict[str, Any]:
    layers, heads = map_.weights.shape[:2]
    numbers = (map_.weights * 65_535).round().numpy().astype("<u2")
    seen = numbers[:, :, *np.tril_indices(numbers.shape[-1])] if map_.kind == "causal" else numbers
    data = np.ascontiguousarray(seen).tobytes()
    return {
        "kind": map_.kind,
        "rows": map_.rows,
        "columns": map_.columns,
        "layers": layers,
        "heads": heads,
        "key_value_heads": map_.key_value_heads,
        "weights": base64.b64encode(data).decode("ascii"),
    }
