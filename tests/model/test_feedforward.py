"""SwiGLU and a mixture of experts by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from labkit.losses import next_token_loss
from labkit.model.feedforward import Gated, MixtureOfExperts, MoE, Plain, PlainFeedForward
from labkit.model.transformer import ModelConfig, Transformer
from labkit.stages import next_token_objective
from labkit.text.batch import Batch


def test_swiglu_by_hand():
    """Width 1, one unit, gate weight 2, up weight 3, down weight 5. At x = 1: silu(2) = 2 / (1 + e^-2), times
    3, times 5.
    """
    layer = Gated(intermediate_size=1).build(width=1)
    with torch.no_grad():
        layer.gate_up.weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.down.weight.fill_(5.0)
    expected = 2 / (1 + math.exp(-2)) * 3 * 5
    torch.testing.assert_close(layer(torch.ones(1, 1)), torch.full((1, 1), expected))


def routed(config: MoE, x: torch.Tensor) -> torch.Tensor:
    """Experts that multiply by 1, 10 and 100 (x is positive), and a router that reads the shares off x's last place."""
    layer = config.build(2)
    layer.router.weight.data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    for factor, expert in zip((1.0, 10.0, 100.0), layer.experts, strict=True):
        assert isinstance(expert, PlainFeedForward)
        expert.up.weight.data, expert.down.weight.data = torch.eye(2), factor * torch.eye(2)
    return layer(x)


def test_a_token_goes_to_its_experts_by_hand():
    """Logits 0, 1, 2 of x = (5, 1): the shares of the two best are e and e² of e + e², so .269 and .731; the token
    becomes x times .269 · 10 + .731 · 100 = 75.80.
    """
    made = routed(MoE(Plain(2, "relu"), 3, 2), torch.tensor([[[5.0, 1.0]]]))
    factor = (10 * math.e + 100 * math.e**2) / (math.e + math.e**2)
    torch.testing.assert_close(made.flatten(), factor * torch.tensor([5.0, 1.0]))
    assert factor == pytest.approx(75.80, abs=0.005)


def test_one_expert_keeps_its_share_of_all_by_hand():
    """As Switch: only the best, times its share of all three, e² / (1 + e + e²) = .665."""
    made = routed(MoE(Plain(2, "relu"), 3, 1, norm_topk_prob=False), torch.tensor([[[5.0, 1.0]]]))
    share = math.e**2 / (1 + math.e + math.e**2)
    torch.testing.assert_close(made.flatten(), 100 * share * torch.tensor([5.0, 1.0]))


def test_an_expert_that_is_full_lets_tokens_pass():
    """Four tokens, all for the third expert; capacity 1.5 of an even share of 4 / 3 is room for two."""
    x = torch.tensor([[[5.0, 1.0]] * 4])
    made = routed(MoE(Plain(2, "relu"), 3, 1, capacity_factor=1.5), x)
    torch.testing.assert_close(made, 100 * x * torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 4, 1))


def test_training_pays_for_experts_that_lie_idle():
    """The objective's loss is the labels' loss and, for each label, the layers' load balance times `balance`; the
    router learns from it.
    """
    torch.manual_seed(0)
    mixture = MoE(Gated(8), num_experts=4, top_k=2, aux_loss_coef=0.5)
    model = Transformer(ModelConfig(vocabulary=9, width=8, depth=2, feed_forward=mixture))
    inputs, labels = torch.randint(9, (2, 6)), torch.randint(9, (2, 6))
    batch = Batch(inputs, labels, torch.ones(2, 6, dtype=torch.bool))
    loss, counted, _ = next_token_objective(model, batch)
    layers = [layer for layer in model.modules() if isinstance(layer, MixtureOfExperts)]
    assert len(layers) == 2 and all(1 <= layer.load_balance <= 4 for layer in layers)
    expected = next_token_loss(model(inputs), labels, batch.mask).loss_sum
    torch.testing.assert_close(loss - expected, counted * 0.5 * sum(layer.load_balance for layer in layers))
    model.weighted_aux_loss().backward()
    assert layers[0].router.weight.grad is not None and layers[0].router.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("capacity", [None, 0.7])
def test_padding_is_nothing_to_experts(capacity):
    """Rows of 5 and 7 tokens, padded to 7 or to 19: the same loss, gradient and balance."""
    torch.manual_seed(0)
    mixture = MoE(Gated(8), num_experts=4, top_k=2, aux_loss_coef=0.5, capacity_factor=capacity)
    model = Transformer(ModelConfig(vocabulary=9, width=8, depth=2, feed_forward=mixture))
    tokens = torch.randint(1, 9, (2, 8))
    found: list[list[Any]] = []
    for length in (7, 19):
        inputs, labels = (F.pad(t, (0, length - 7)) for t in (tokens[:, :-1], tokens[:, 1:]))
        mask = torch.arange(length) < torch.tensor([[5], [7]])
        mask[:, :2] = False  # a prompt is no padding
        model.zero_grad()
        loss, _, _ = next_token_objective(model, Batch(inputs, labels, mask))
        loss.backward()
        found.append([loss, model.weighted_aux_loss(), *(p.grad for p in model.parameters())])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long)
    assert found[0][1] > 0


@pytest.mark.slow
def test_a_mixture_learns_compiled_too():
    from labkit.training.config import TrainConfig
    from labkit.training.loop import fit

    class Always:
        def next_batch(self, model, step):
            tokens = torch.arange(13).repeat(2, 1)
            return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 12, dtype=torch.bool))

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    losses = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        mixture = MoE(Gated(16), num_experts=4, top_k=1, norm_topk_prob=False)
        model = Transformer(ModelConfig(vocabulary=16, width=16, depth=1, feed_forward=mixture))
        config = TrainConfig(30, 2, 12, muon_lr=2e-2, adamw_lr=2e-2, warmup_steps=2, precision="fp32", compile=compiled)
        losses[compiled] = [record.loss for record in fit(model, Always(), next_token_objective, config)]
    assert losses[False][-1] < losses[False][0] / 2
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
