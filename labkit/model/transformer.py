"""The Transformer: stacks of blocks (`labkit.model.blocks`) between a token embedding and a head.

Decoder-only, encoder-only (``causal=False``) and encoder-decoder (``encoder_depth``) are one module: what differs is
what a token may look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labkit.configs import CountOrNone, Positive, Range, check_fields
from labkit.errors import LabError
from labkit.losses import token_logprobs
from labkit.machine import check_memory_available
from labkit.model.blocks import Block, Stack, State
from labkit.model.context import EncoderOutput, ForwardContext
from labkit.model.feedforward import FeedForward, Gated, MixtureOfExperts, MoE
from labkit.model.gru import GRU
from labkit.model.heads import ClassHead, LMHead, MaskedHead
from labkit.model.initial import init_previous_token_heads, init_weights, register_weight_renames
from labkit.model.mixers import Attention, AttentionConfig, SelfAttention
from labkit.model.positions import (
    AttentionPositions,
    Learned,
    ModelSizes,
    NoPosition,
    Position,
    PositionEncoding,
    Rotary,
    Sinusoidal,
    relative_positions,
)
from labkit.model.rwkv import RWKV
from labkit.model.taps import Tap, no_tap

MASKED_SCORE = -1e30
"""Added to the score of what may not be looked at. Finite, so that a row that sees nothing (padding) is no NaN."""

Mixer = SelfAttention | RWKV | GRU

Width = Annotated[int, Range(1, 2**20)]
Depth = Annotated[int, Range(1, 4096)]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. Choices are values: ``ModelConfig(position=Rotary(base=500_000), ...)``.

    context: the longest row of tokens. width: D. depth: blocks. heads: H, of ``head_dim`` E each (width / heads when
    None). key_value_heads: K, how many key and value heads the H query heads share; H, so that each has its own, when
    None. tied: the head uses the token embedding. norm_eps: what keeps a norm from dividing by zero.
    previous_token_init: how many tokens back the first block's heads look before any training, see
    `initial.init_previous_token_heads`; 0, or another position than Rotary, lets chance decide. mixer: what lets tokens
    see each other. RWKV and GRU know the order by themselves, and go with NoPosition, Learned or Sinusoidal;
    key_value_heads and qk_norm are attention's.

    norm: RMSNorm (https://arxiv.org/abs/1910.07467) or LayerNorm (https://arxiv.org/abs/1607.06450). norm_placement:
    whether a block normalises what its parts read, or what they leave (https://arxiv.org/abs/2002.04745). bias: of all
    matrices, RWKV's and GRU's own apart. causal: no token sees a later one. encoder_depth: of an encoder that the
    blocks look at; 0 for none. token_types: kinds of token that are told apart by a vector of their own; 0 for one
    kind. embedding_norm: normalise the embeddings. token_shift: the feed-forward reads a learnt mix of each token and
    the one before, as RWKV's channel mixing. logit_scale: what the head's input is multiplied by. attention_scale: of
    the scores; 1/√E when None. head: "token", or BERT's "masked" with a layer of its own. classes: kinds of row that
    `class_logits` tells apart; 0 for none. qkv_bias: of attention's queries, keys and values alone, as in Qwen2
    (https://arxiv.org/abs/2407.10671). window: how many tokens a token sees up to itself, in every layer, as in Mistral
    (https://arxiv.org/abs/2310.06825); 0 for all.

    Raises LabError for a shape that makes no sense.
    """

    vocabulary: Annotated[int, Range(1, 2**24)]
    context: Annotated[int, Range(1, 2**24)] = 256
    width: Width = 128
    depth: Depth = 4
    heads: Width = 2
    key_value_heads: Width | None = None
    head_dim: Width | None = None
    feed_forward: FeedForward = Gated(intermediate_size=352)
    mixer: Mixer = SelfAttention()
    position: Position = Rotary()
    qk_norm: bool = True
    tied: bool = True
    norm_eps: Annotated[float, Range(0, 1, exclude_low=True)] = 1e-6
    previous_token_init: CountOrNone = 0
    norm: Literal["rms", "layer"] = "rms"
    norm_placement: Literal["pre", "post"] = "pre"
    bias: bool = False
    causal: bool = True
    encoder_depth: Annotated[int, Range(0, 4096)] = 0
    token_types: Annotated[int, Range(0, 2**20)] = 0
    embedding_norm: bool = False
    token_shift: bool = False
    logit_scale: Positive = 1.0
    attention_scale: Positive | None = None
    head: Literal["token", "masked"] = "token"
    classes: Annotated[int, Range(0, 2**20)] = 0
    qkv_bias: bool = False
    window: CountOrNone = 0

    older_names = {
        "key_value_heads": "key_heads",
        "head_dim": "head_width",
        "previous_token_init": "look_back",
        "encoder_depth": "encoder",
        "norm_placement": "order",
    }

    def __post_init__(self) -> None:
        check_fields(self)
        if self.key_value_heads == self.heads:  # said in two ways it is one config: recipes of before have the number
            object.__setattr__(self, "key_value_heads", None)
        if not 0 <= self.previous_token_init < self.context:
            raise LabError(
                f"ModelConfig: previous_token_init must be a number of tokens from 0 to below the context of "
                f"{self.context}, not {self.previous_token_init}."
            )
        if self.heads % self.attention_config.key_value_heads:
            raise LabError(
                f"ModelConfig: {self.heads} query heads cannot share {self.key_value_heads} key heads evenly; make "
                "heads a multiple of key_value_heads."
            )
        if self.head_dim is None and self.width % self.heads:
            raise LabError(
                f"ModelConfig: a width of {self.width} cannot be split into {self.heads} heads; make width a multiple "
                "of heads, or set head_dim."
            )
        if isinstance(self.feed_forward, MoE) and self.feed_forward.sparse_step > self.depth:
            raise LabError(
                f"MoE: sparse_step must be from 1 to the {self.depth} blocks, not {self.feed_forward.sparse_step}."
            )
        if not isinstance(self.mixer, SelfAttention):
            self._check_recurrent(type(self.mixer).__name__)
        if self.window and (not self.causal or self.encoder_depth or not isinstance(self.mixer, SelfAttention)):
            raise LabError("ModelConfig: window needs causal attention without an encoder.")
        if self.encoder_depth and not self.causal:
            raise LabError("ModelConfig: a decoder that attends to an encoder must be causal; set causal=True.")
        self.position.check_sizes(
            ModelSizes(self.context, self.width, self.heads, self.attention_config.head_dim, self.causal)
        )

    def _check_recurrent(self, mixer: str) -> None:
        if not self.causal or self.encoder_depth:
            raise LabError(f"ModelConfig: {mixer} is causal; a bidirectional model needs SelfAttention.")
        if not isinstance(self.position, NoPosition | Learned | Sinusoidal):
            raise LabError(
                f"ModelConfig: {type(self.position).__name__} works inside attention, which {mixer} does not have; set "
                "position=NoPosition()."
            )
        if isinstance(self.mixer, RWKV):
            self.mixer.check_sizes(self.width, self.attention_config)

    @property
    def attention_config(self) -> AttentionConfig:
        """The shape of its attentions: key_value_heads (K) and head_dim (E) are numbers here, given or not."""
        K = self.heads if self.key_value_heads is None else self.key_value_heads
        E = self.width // self.heads if self.head_dim is None else self.head_dim
        scale, norm = self.attention_scale, (self.qk_norm, self.norm_eps)
        return AttentionConfig(self.heads, K, E, self.bias, scale, *norm, self.qkv_bias)

    @property
    def min_parameter_count(self) -> int:
        """How many numbers it has at least, positions' tables included: what can be known before it is built."""
        E = self.attention_config.head_dim
        mixed = self.heads * E if isinstance(self.mixer, SelfAttention) else self.width
        moe = self.feed_forward
        experts = max(1, moe.num_experts // moe.sparse_step) if isinstance(moe, MoE) else 1
        block = 2 * self.width * (mixed + moe.intermediate_size * experts)
        table = {Learned: self.width, Sinusoidal: self.width, Rotary: E}.get(type(self.position), 0)
        return self.vocabulary * self.width + (self.depth + self.encoder_depth) * block + self.context * table

    def new_position(self, causal: bool) -> PositionEncoding:
        """The encoding of its positions, of the stack where no token sees a later one (causal) or of the encoder."""
        sizes = ModelSizes(self.context, self.width, self.heads, self.attention_config.head_dim, causal)
        return self.position.build(sizes)

    def new_norm(self) -> nn.Module:
        """A norm of its kind."""
        if self.norm == "rms":
            return nn.RMSNorm(self.width, self.norm_eps)
        return nn.LayerNorm(self.width, self.norm_eps)


class Transformer(Stack):
    """GPT-2, Llama, Mistral, Mixtral, Qwen2, Qwen3, BLOOM, BERT, T5, Switch Transformers and RWKV-7 are values of its
    config.
    """

    def __init__(self, config: ModelConfig):
        """Raises LabError for a shape whose parts do not go together, or that this machine's memory cannot hold."""
        nn.Module.__init__(self)
        check_memory_available(
            4.0 * config.min_parameter_count, f"A model of {config.min_parameter_count:,} parameters"
        )
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.init_stack(config, config.depth, config.causal, config.encoder_depth > 0)
        register_weight_renames(self, {"types.": "token_type_embedding.", "row_head.": "classifier_head."})
        self.token_type_embedding = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.embedding_norm = config.new_norm() if config.embedding_norm else nn.Identity()
        self.encoder = (
            Stack(config, config.encoder_depth, causal=False, cross=False, tap_prefix="encoder.")
            if config.encoder_depth
            else None
        )
        kind = {"token": LMHead, "masked": MaskedHead}[config.head]
        self.head = kind(config.width, config.vocabulary, config.tied, config.norm_eps)
        self.classifier_head = ClassHead(config.width, config.classes) if config.classes else None
        init_weights(self, config.depth)
        if config.previous_token_init and isinstance(config.position, Rotary):  # which goes with attention alone
            attention = self.blocks[0].get_submodule("mixer")
            assert isinstance(attention, Attention)
            init_previous_token_heads(self.embedding, attention, self.position, config.previous_token_init)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        state: State | None = None,
        tap: Tap = no_tap,
        memory: EncoderOutput | None = None,
        token_type_ids: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """tokens [B, T] -> logits [B, T, V] of the token after each (of each, where no token is hidden from another);
        the other arguments are those of ``hidden_states``.
        """
        return self.logits(self.hidden_states(tokens, positions, mask, state, tap, memory, token_type_ids, documents))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """The head alone: hidden_states [B, T, D] -> logits [B, T, V]."""
        scale = self.config.logit_scale
        return self.head(hidden_states if scale == 1 else hidden_states * scale, self.embedding.weight)

    def label_logprobs(self, hidden_states: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of each label: hidden_states [B, T, D], labels [B, T], mask [B, T] -> [B, T] nats in fp32.

        0 where the mask is False: there the head, the larger part of the work on short answers, is not asked at all.
        """
        found = token_logprobs(self.logits(hidden_states[mask]).unsqueeze(0), labels[mask].unsqueeze(0))
        return found.new_zeros(labels.shape).masked_scatter(mask, found)

    def class_logits(self, hidden_states: Tensor) -> Tensor:
        """What each row is: hidden_states [B, T, D] -> logits [B, classes]. Raises LabError for a model
        without.
        """
        if self.classifier_head is None:
            raise LabError("This model has no classification head: set classes in its config.")
        return self.classifier_head(hidden_states)

    def encode(self, tokens: Tensor, mask: Tensor | None = None, tap: Tap = no_tap) -> EncoderOutput:
        """What the encoder makes of tokens [B, S], for ``memory``; mask [B, S] is False for padding.

        Raises LabError when the model has no encoder, or the text is longer than the context.
        """
        if self.encoder is None:
            raise LabError("This model has no encoder, so it takes no memory.")
        self._fits(tokens.shape[1])
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = tap("encoder.embedding", self._embedded(tokens, positions, self.encoder, None))
        visible = attention_bias(1, tokens.shape[1], mask, tokens.device, causal=False)
        places = AttentionPositions(self.encoder.position, positions, positions)
        x = self.encoder.run_blocks_and_norm(x, None, ForwardContext(places, visible, token_mask=mask, tap=tap))
        return EncoderOutput(tap("encoder.hidden", x), visible)

    def hidden_states(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        state: State | None = None,
        tap: Tap = no_tap,
        memory: EncoderOutput | None = None,
        token_type_ids: Tensor | None = None,
        documents: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """tokens [B, T] -> the normalised vectors [B, T, D] that the head reads.

        positions [T] or [B, T] count from 0 (default: on from what the state holds, in each document anew). mask [B, T]
        is True for real tokens and False for padding, which no later token looks at; padding on the right of a causal
        model needs no mask. With a state the tokens continue what it holds, and it takes them in. memory: what the
        model's encoder made. token_type_ids [B, T]: each token's kind, 0 when not given. documents [B, T]: numbers that
        change where another of the documents packed into one row begins; none sees another. branches [B, T]: where a
        document goes on in several ways, the number of each, from 1, and 0 before; none sees another; attention alone
        knows them, and needs positions. Raises LabError for more
        tokens than the context when positions are not given (given ones must be below it), for a memory that is missing
        or of no use, and for documents with a state.
        """
        if (memory is None) != (self.encoder is None):
            what = "needs the memory of its encoder" if memory is None else "has no encoder, and takes no memory"
            raise LabError(f"This model {what}: model(tokens, memory=model.encode(encoder_tokens)).")
        filled = 0 if state is None else state.length
        T = tokens.shape[1]
        fresh = None if documents is None else F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
        if positions is None:
            self._fits(filled + T)
            positions = torch.arange(filled, filled + T, device=tokens.device)
            if fresh is not None:
                positions = positions - (positions * fresh).cummax(1).values
        keys, key_positions = mask, positions
        if state is not None:
            if documents is not None:
                raise LabError("Packed documents need a single forward pass; a state continues one document per row.")
            state.append_positions(mask, positions, T)
            keys, key_positions = state.mask[:, : state.length], state.positions[:, : state.length]
        document = None if fresh is None else fresh.cumsum(1)
        visible = attention_bias(T, key_positions.shape[-1], keys, tokens.device, self.causal, document, branches)
        if self.config.window:
            visible = visible + sliding_window_bias(positions, key_positions, self.config.window)
        hides_more = state is not None or mask is not None or document is not None or self.config.window > 0
        context = ForwardContext(
            AttentionPositions(self.position, positions, key_positions),
            visible,
            mask,
            fresh,
            memory,
            tap,
            is_causal=self.causal and not hides_more,
        )
        x = tap("embedding", self._embedded(tokens, positions, self, token_type_ids))
        return tap("hidden", self.run_blocks_and_norm(x, state, context))

    def _fits(self, length: int) -> None:
        if length > self.config.context:
            raise LabError(f"{length} tokens do not fit in the model's context of {self.config.context}.")

    def _embedded(self, tokens: Tensor, positions: Tensor, stack: Stack, token_type_ids: Tensor | None) -> Tensor:
        x = self.embedding(tokens)
        if self.token_type_embedding is not None:
            x = x + self.token_type_embedding(torch.zeros_like(tokens) if token_type_ids is None else token_type_ids)
        return self.embedding_norm(stack.position.embed(x, positions))

    def new_state(self, batch_size: int, max_length: int) -> State:
        """An empty state for ``batch_size`` rows of at most ``max_length`` tokens. Raises LabError where tokens see
        later ones, so that nothing can be kept.
        """
        if not self.causal:
            raise LabError("A bidirectional model has no state: pass the whole row at once.")
        places = torch.zeros(batch_size, max_length, dtype=torch.int64, device=self.embedding.weight.device)
        blocks = [block.new_state(batch_size, max_length) for block in self.blocks if isinstance(block, Block)]
        return State(blocks, places.bool(), places)

    @property
    def is_moe(self) -> bool:
        """Whether its feed-forwards are mixtures of experts."""
        return isinstance(self.config.feed_forward, MoE)

    def weighted_aux_loss(self) -> Tensor:
        """What training adds to the loss of a label for experts that were used unevenly, summed over layers: []."""
        moe = self.config.feed_forward
        assert isinstance(moe, MoE)
        layers = [layer for layer in self.modules() if isinstance(layer, MixtureOfExperts)]
        return moe.aux_loss_coef * torch.stack([layer.load_balance for layer in layers]).sum()

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def training_flops_per_token(self, sequence_length: int) -> float:
        """Floating-point operations to train on one token in rows of ``sequence_length``: 6 N + 12 · depth · H · E ·
        T.

        PaLM, https://arxiv.org/abs/2204.02311, appendix B. N counts the weights of matrix products that a token takes
        part in: the head does, the embedding's look-up does not, nor do the experts that it is not sent to. Attention
        is counted in full, as if nothing were masked. RWKV has in its place four products with a head's matrix of E²
        numbers, whatever T is; a GRU has none.
        """
        config = self.config
        matrices = config.vocabulary * config.width + sum(self._used(stack) for stack in (self, self.encoder) if stack)
        E = config.attention_config.head_dim
        each = {SelfAttention: 12.0 * sequence_length, RWKV: 24.0 * E, GRU: 0.0}[type(config.mixer)]
        return 6.0 * matrices + each * (config.depth + config.encoder_depth) * config.heads * E

    def _used(self, stack: Stack) -> float:
        """Weights of matrices in the blocks, an expert's as far as tokens are sent to it."""
        moe = self.config.feed_forward
        share = moe.top_k / moe.num_experts if isinstance(moe, MoE) else 1.0
        named = ((name, p) for name, p in stack.blocks.named_parameters() if p.dim() > 1)
        return sum(p.numel() * (share if ".experts." in name else 1.0) for name, p in named)


def attention_bias(
    queries: int,
    keys: int,
    mask: Tensor | None,
    device: torch.device,
    causal: bool,
    documents: Tensor | None = None,
    branches: Tensor | None = None,
) -> Tensor:
    """What to add to scores, [T, S] or [B, T, S]: 0 where a query may look at a key, one that is real and, if causal,
    not after it; `MASKED_SCORE` elsewhere.

    The T queries are the last T of the S keys; mask [B, S] is True for real keys, None when all are; documents [B, S]
    number the documents of a packed row, which do not see each other; branches [B, S] the branches of each, which do
    not either, but all see 0.
    """
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        visible = visible.tril(keys - queries)
    if mask is not None:
        visible = visible & mask.unsqueeze(-2)
    if documents is not None:
        visible = visible & (documents.unsqueeze(-1) == documents.unsqueeze(-2))
    if branches is not None:
        key_branches = branches.unsqueeze(-2)
        visible = visible & ((branches.unsqueeze(-1) == key_branches) | (key_branches == 0))
    return torch.zeros(visible.shape, device=device).masked_fill(~visible, MASKED_SCORE)


def sliding_window_bias(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """What to add to scores, [(B,) T, S]: 0 for the `window` keys up to a query's own, `MASKED_SCORE` for those
    before.
    """
    before = relative_positions(query_positions, key_positions) <= -window
    return torch.zeros(before.shape, device=before.device).masked_fill(before, MASKED_SCORE)
