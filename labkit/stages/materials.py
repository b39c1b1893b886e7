"""What every stage is given, what every stage offers, and the objective that the first stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.losses import next_token_loss
from labkit.train import Source, TrainConfig

if TYPE_CHECKING:
    from labkit.evaluate import EvaluationConfig, TextData, WorldData
    from labkit.model.transformer import Transformer
    from labkit.text.batch import Batch
    from labkit.text.load import Conversations, Texts
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import World


@dataclass(frozen=True, eq=False)
class Materials:
    """What a run reads.

    texts, conversations: real ones, or None where the world's take their place. rank, world_size: this process among
    all; each reads its share of a batch.
    """

    tokenizer: Tokenizer
    world: World
    seed: int = 0
    texts: Texts | None = None
    conversations: Conversations | None = None
    rank: int = 0
    world_size: int = 1

    @cached_property
    def corpus(self) -> NDArray[Any]:
        """The real training texts as one array of token ids [N]."""
        from labkit.text.sources import encode_corpus

        return encode_corpus(self.tokenizer, self.texts.train if self.texts else [])

    def shared(self) -> dict[str, int]:
        """What a source needs to know to share batches and to draw its own."""
        return {"seed": self.seed, "rank": self.rank, "world_size": self.world_size}


class StageConfig(Protocol):
    """What `labkit.pipeline` asks of a stage."""

    name: ClassVar[str]
    chat: ClassVar[bool]
    """Whether the model answers in the chat form after this stage."""

    objective: ClassVar[Callable[[nn.Module, Any], tuple[Tensor, Tensor, dict[str, Tensor]]]]

    @property
    def train(self) -> TrainConfig: ...

    def source(self, materials: Materials) -> Source:
        """The training batches."""

    def data(self, materials: Materials) -> WorldData | TextData:
        """What the stage is measured on."""

    def loss(self, model: Transformer, materials: Materials, config: EvaluationConfig) -> float:
        """Nats a label on held-out data: the one measure cheap enough to take while training."""

    def evaluate(self, model: Transformer, materials: Materials, config: EvaluationConfig) -> dict[str, float]:
        """All that can be measured after the stage."""


def next_token_objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many labels, nothing more) of the next token, over the batch's labels that count."""
    loss_sum, counted = next_token_loss(model(batch.inputs), batch.labels, batch.mask)
    return loss_sum, counted, {}
