"""The smallest things that `fit` can train: a model, a source and an objective, for tests."""

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labkit.losses import next_token_loss
from labkit.training.config import TrainConfig

V = 11


class TinyBatch(NamedTuple):
    inputs: Tensor
    labels: Tensor
    mask: Tensor


class TinyModel(nn.Module):
    """Predicts a token from the one before: [B, T] -> [B, T, V]."""

    def __init__(self, seed: int = 0, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(V, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.down(self.dropout(torch.relu(self.up(x)))))


class Counting:
    """Row i is a function of (seed, i) alone; a share of its labels counts, a different one in every row."""

    def __init__(self, rows: int = 4, length: int = 6, rank: int = 0, world_size: int = 1, masked: bool = True):
        self.rows, self.length, self.rank, self.world_size, self.masked = rows, length, rank, world_size, masked
        self.asked: list[int] = []

    def next_batch(self, model: Any, step: int) -> TinyBatch:
        self.asked.append(step)
        chosen = range(step * self.rows, (step + 1) * self.rows)[self.rank :: self.world_size]
        rows = [torch.randint(V, (self.length + 1,), generator=torch.Generator().manual_seed(i)) for i in chosen]
        tokens = torch.stack(rows)
        labels = (tokens[:, :-1] + 1) % V  # learnable: the next number
        counted = [[not self.masked or t <= i % self.length for t in range(self.length)] for i in chosen]
        return TinyBatch(tokens[:, :-1], labels, torch.tensor(counted))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def tiny_objective(model: nn.Module, batch: TinyBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    logits = model(batch.inputs)
    loss_sum, counted = next_token_loss(logits, batch.labels, batch.mask)
    right = ((logits.argmax(-1) == batch.labels) & batch.mask).sum()
    return loss_sum, counted, {"right": right}


def tiny_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": 6, "batch_size": 4, "max_length": 6, "muon_lr": 0.05, "adamw_lr": 0.05, "warmup_steps": 2,
        "precision": "fp32", "checkpoint_every": 2,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def weights_hash(model: nn.Module) -> str:
    """Changes with a single bit of a single weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
