from typing import Any

import pytest
import torch
from torch import nn

from labkit.training.optimizer import (
    MuonAdamW,
    cosine_schedule,
    muon_parameter_names,
    newton_schulz,
    warmup_stable_decay,
)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4, bias=False)
        self.square = nn.Linear(4, 4, bias=False)
        self.experts = nn.Parameter(torch.randn(2, 4, 6))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)


def give_gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape):
    torch.manual_seed(0)
    X = torch.randn(shape)
    U, _, V = torch.linalg.svd(X, full_matrices=False)
    flat = newton_schulz(X, steps=5, dtype=torch.float32)
    inside = U.mT @ flat @ V.mT  # diagonal: the new singular values along the old directions
    values = inside.diagonal(dim1=-2, dim2=-1)
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-3
    assert values.min() > 0.3 and values.max() < 1.3


def test_orthogonalize_by_hand():
    # diag(3, 4) / norm 5 = diag(.6, .8); one step of 3.4445 x - 4.775 x^3 + 2.0315 x^5:
    # .6 -> 2.06670 - 1.03140 + 0.15797 = 1.19327,  .8 -> 2.75560 - 2.44480 + 0.66568 = 0.97648
    got = newton_schulz(torch.diag(torch.tensor([3.0, 4.0]))[None], steps=1, dtype=torch.float32)
    assert torch.allclose(got, torch.diag(torch.tensor([1.19327, 0.97648]))[None], atol=1e-4)


def test_the_update_does_not_depend_on_the_gradients_size():
    X = torch.randn(1, 6, 6)
    assert torch.allclose(newton_schulz(X), newton_schulz(1000 * X), atol=0.02)


def test_batching_matrices_changes_nothing():
    """All of a shape in one product (its transpose too) = each on its own."""
    together, alone = Tiny(), Tiny()
    alone.load_state_dict(together.state_dict())
    give_gradients(together)
    give_gradients(alone)
    options: dict[str, Any] = {"muon_lr": 0.1, "adamw_lr": 0.01, "weight_decay": 0.1, "dtype": torch.float32}
    names = muon_parameter_names(together)
    MuonAdamW(together.named_parameters(), names, **options).step()
    for name, p in alone.named_parameters():
        MuonAdamW([(name, p)], names, **options).step()
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_muon_by_hand():
    """First step from momentum 0: M = .05 G, so Nesterov's .05 G + .95 M is along G: p <- .9 p - lr orthogonal(G)."""
    p = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    G = torch.tensor([[0.0, 3.0], [-3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    p.grad = G.clone()
    MuonAdamW([("w", p)], ["w"], muon_lr=0.1, adamw_lr=0, weight_decay=1.0, dtype=torch.float32).step()
    value = newton_schulz(G[None], dtype=torch.float32)[0]
    expected = 0.9 * torch.eye(4)[:, :2] - 0.1 * 2**0.5 * value  # rows / columns = 2
    assert torch.allclose(p, expected, atol=1e-6)


def test_adamw_is_torchs_own():
    ours, theirs = Tiny(), Tiny()
    theirs.load_state_dict(ours.state_dict())
    options: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim <= 1]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], **options
    )
    optimizer = MuonAdamW(ours.named_parameters(), muon_lr=0.0, adamw_lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        for model, optimizing in ((ours, optimizer), (theirs, reference)):
            give_gradients(model, seed)
            optimizing.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_which_parameters_muon_takes():
    assert muon_parameter_names(Tiny()) == ["experts", "up.weight", "down.weight", "square.weight"]


def test_a_tied_head_stays_with_adamw():
    model = Tiny()
    model.output = nn.Linear(4, 7, bias=False)
    model.output.weight = model.embedding.weight
    assert "output.weight" not in muon_parameter_names(model) and "embedding.weight" not in muon_parameter_names(model)


def test_state_comes_back():
    """Two steps = one step, state carried over as named tensors to a new optimizer, one step more; bit for bit."""
    straight, stopped = Tiny(), Tiny()
    stopped.load_state_dict(straight.state_dict())

    def new(model):
        return MuonAdamW(model.named_parameters(), muon_parameter_names(model), muon_lr=0.1, adamw_lr=0.01)

    first, second = new(straight), new(stopped)
    for seed in (0, 1):
        give_gradients(straight, seed)
        first.step()
    give_gradients(stopped, 0)
    second.step()
    third = new(stopped)
    third.load_tensors(second.tensors())
    give_gradients(stopped, 1)
    third.step()
    for a, b in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_are_left_alone():
    model = Tiny()
    model.up.weight.requires_grad_(False)
    before = model.up.weight.clone()
    optimizer = MuonAdamW(model.named_parameters(), muon_parameter_names(model), muon_lr=0.1, adamw_lr=0.1)
    give_gradients(model)
    optimizer.step()
    assert torch.equal(before, model.up.weight) and "up.weight/momentum" not in optimizer.tensors()


def test_schedules_by_hand():
    wsd = [warmup_stable_decay(s, steps=10, warmup_steps=2, decay_fraction=0.4) for s in range(10)]
    assert wsd == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    half = [cosine_schedule(s, steps=4, warmup_steps=0) for s in range(5)]
    assert half == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    assert cosine_schedule(100, steps=100, final_scale=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [cosine_schedule, warmup_stable_decay])
def test_schedules_stay_within_zero_and_one(schedule):
    assert all(0 <= schedule(s, steps=57, warmup_steps=5) <= 1 for s in range(57))
