"""What a step costs, counted on tensors without numbers: by hand for a tiny model, and beside tensors with numbers."""

from dataclasses import replace

import pytest
import torch

from labkit.model.feedforward import Gated, MoE
from labkit.model.positions import NoPosition
from labkit.model.transformer import ModelConfig, Transformer
from labkit.stages import next_token_objective
from labkit.text.batch import Batch
from labkit.training.config import TrainConfig, build_optimizer
from labkit.training.cost import CostCounter, Work, fake_tensors, without_memory
from labkit.training.processes import ParallelConfig
from labkit.training.speed import DeviceSpeed, measure_generation_speed, measure_speed, solve_speed
from labkit.training.step_cost import StepCost, count_step

SHAPE = ModelConfig(
    10, context=8, width=4, depth=1, heads=1, feed_forward=Gated(6), position=NoPosition(), qk_norm=False
)
TRAIN = TrainConfig(batch_size=1, max_length=8, optimizer="adamw", precision="fp32")
FSDP = ParallelConfig("fsdp")


def batch(rows: int = 1, vocabulary: int = 10, length: int = 8) -> Batch:
    ids = torch.arange(rows * (length + 1)).view(rows, -1) % vocabulary
    return Batch(ids[:, :-1], ids[:, 1:], torch.ones_like(ids[:, 1:], dtype=torch.bool))


def cost(shape: ModelConfig = SHAPE, train: TrainConfig = TRAIN, rows: int = 1, **options) -> StepCost:
    with fake_tensors():
        model = without_memory(lambda: Transformer(shape))
        given = batch(rows, shape.vocabulary, shape.context)
        return count_step(model, given, next_token_objective, train, **options)


def test_a_tiny_model_by_hand():
    """D = 4, V = 10, T = 8, H = 1, a gated feed-forward of 6; 188 parameters of 4 bytes in 8 tensors:

    embedding 40, qkv 4 · 12 = 48, out 16, gate and up 4 · 12 = 48, down 6 · 4 = 24, three norms of 4

    AdamW keeps two numbers for each and a step for each tensor. Products of a forward pass, 2 M N K each: qkv 768,
    scores 2 · 8 · 8 · 4 = 512, values 512, out 256, gate and up 768, down 384, head 2 · 8 · 4 · 10 = 640, which is
    3,840; each has two of its size in the backward pass. PaLM, appendix B: 6 N + 12 H E T = 6 · 176 + 12 · 4 · 8 a
    token, of which there are 8.
    """
    found = cost()
    assert (found.parameter_bytes, found.gradient_bytes, found.communication_bytes) == (752, 752, 0)
    assert found.optimizer_state_bytes == 2 * 752 + 8 * 4
    assert found.work.flops == 3 * 3840 == 8 * (6 * 176 + 12 * 4 * 8)
    assert found.work.flops == 8 * Transformer(SHAPE).training_flops_per_token(8)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, width=16, heads=4, key_value_heads=2, head_dim=6, depth=2)])
def test_tensors_without_numbers_cost_what_real_ones_do(shape, optimizer):
    """The same step, counted on real tensors: every product, and every byte of the peak. The norm of all gradients is a
    few operations more without numbers.
    """
    train = replace(TRAIN, optimizer=optimizer)
    found, counter, model, given = cost(shape, train, rows=3), CostCounter(), Transformer(shape), batch(3)
    optimiser = build_optimizer(model, train, torch.float32)
    for tensor in (*model.parameters(), *optimiser.tensors().values()):
        counter.track_tensor(tensor)
    with counter:
        next_token_objective(model, given)[0].backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, 0.5)
        optimiser.step()
    assert found.work.flops == counter.work.flops
    assert found.work == pytest.approx(counter.work, rel=0.1)
    assert found.peak_bytes == counter.peak_bytes


def test_fsdp_holds_half_and_ddp_gradients_twice():
    """All rows are even: two processes hold half of the weights and of AdamW's two numbers. Its steps are scalars."""
    alone, ddp, fsdp = cost(), cost(processes=2), cost(parallel=FSDP, processes=2)
    assert (ddp.parameter_bytes, ddp.optimizer_state_bytes) == (alone.parameter_bytes, alone.optimizer_state_bytes)
    assert ddp.communication_bytes == ddp.gradient_bytes and ddp.peak_bytes == alone.peak_bytes + ddp.gradient_bytes
    assert (fsdp.parameter_bytes, fsdp.gradient_bytes) == (376, 376)
    assert fsdp.optimizer_state_bytes == 2 * 376 + 8 * 4
    outside, block = 4 * (40 + 4), 4 * (48 + 16 + 48 + 24 + 8)
    assert outside + 2 * block <= fsdp.communication_bytes <= outside + 3 * block
    assert cost().sent_bytes == 0 and ddp.sent_bytes == 752 and fsdp.sent_bytes == 1.5 * 752


def test_gradients_of_earlier_batches_are_there_during_the_next():
    one, two = cost(), cost(train=replace(TRAIN, gradient_accumulation_steps=2))
    assert two.peak_bytes > one.peak_bytes
    assert one.work.flops * 2 == two.work.flops
    assert one.work.moved_bytes < two.work.moved_bytes < 2 * one.work.moved_bytes  # there is one update


@pytest.mark.parametrize("parallel", [ParallelConfig(), FSDP])
def test_activation_checkpointing_takes_less_memory_and_more_products(parallel):
    shape = replace(SHAPE, depth=4)
    kept = cost(shape, rows=8, parallel=parallel, processes=2)
    checkpointed = replace(parallel, activation_checkpointing=True)
    again = cost(shape, rows=8, parallel=checkpointed, processes=2)
    assert again.peak_bytes < kept.peak_bytes and again.communication_bytes == kept.communication_bytes
    assert kept.work.flops < again.work.flops < 1.34 * kept.work.flops


def test_bf16_keeps_less():
    assert cost(rows=64, bf16=True).activation_bytes < 0.8 * cost(rows=64).activation_bytes


def test_experts_take_even_shares_of_the_tokens():
    """Two of four experts are asked for each token: products as in a feed-forward of twice the size, and a router."""
    moe = cost(replace(SHAPE, feed_forward=MoE(Gated(6), num_experts=4, top_k=2)))
    router = 3 * 2 * 8 * 4 * 4
    assert moe.work.flops == cost(replace(SHAPE, feed_forward=Gated(12))).work.flops + router


def test_a_model_larger_than_any_memory_is_counted():
    shape = ModelConfig(1000, width=65536, depth=6, heads=512, feed_forward=Gated(212992), context=8)
    assert cost(shape).parameter_bytes > 1.3e12
    with pytest.raises(ValueError, match="this machine has"):
        Transformer(shape)


def test_speeds_are_solved_from_two_steps():
    """At 10 FLOP/s: 2 s beyond products for 1 byte and 3 kernels, and 4 s for 5 bytes and 3: a byte takes 0.5 s, a
    kernel also.
    """
    speed = solve_speed(10, 2 + 1, Work(10, 1, 3), 4 + 2, Work(20, 5, 3))
    assert speed == pytest.approx(DeviceSpeed(10, 2, 0.5))
    assert speed.seconds(Work(20, 4, 2)) == pytest.approx(2 + 2 + 1)
    assert speed.slowed_down(0.5).seconds(Work(20, 4, 2)) == pytest.approx(2.5)


def test_a_step_no_longer_than_its_products_tells_no_bandwidth():
    """2 s of products at 10 FLOP/s; the short step's 2 s beside its own are its 4 kernels', whole or nearly so."""
    speed = solve_speed(10, 2 + 1, Work(10, 1, 4), 1.9, Work(20, 50, 3))
    assert speed.bandwidth is None and speed.kernel_seconds == pytest.approx(0.5, rel=0.02)
    assert speed.slowed_down(2).seconds(Work(20, 100, 0)) == 2 * 2


def test_a_measurement_is_repeated_until_it_tells(monkeypatch):
    found = iter([DeviceSpeed(1, None, 1), DeviceSpeed(1, 2, 1), DeviceSpeed(1, 3, 1)])
    monkeypatch.setattr("labkit.training.speed._measured_once", lambda *given: next(found))
    assert measure_speed().bandwidth == 2


def test_where_rows_are_few_a_products_matrices_are_moved_too():
    """[1, 4] by [4, 6]: 2 · 4 · 6 FLOPs, and 4 + 24 + 6 numbers of 4 bytes."""
    row, matrix = torch.zeros(1, 4), torch.zeros(4, 6)
    for moves, size in ((False, 0), (True, 4 * 34)):
        with CostCounter(moves_operands=moves) as counter:
            row @ matrix
        assert counter.work == Work(48, size, 1)


@pytest.mark.parametrize("measure", [measure_speed, measure_generation_speed])
def test_this_machine_has_speeds(measure):
    speed = measure()
    assert speed.bandwidth is not None and 0.1 < speed.bandwidth and 0 <= speed.kernel_seconds < 0.1 < speed.flops
