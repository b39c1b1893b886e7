import math

import pytest
import torch

from labkit.losses import mean_logprobs, next_token_loss, sum_logprobs


def logits_for(*probabilities):
    """Logits whose softmax is exactly the given rows of probabilities: [1, T, V]."""
    return torch.tensor([probabilities]).log()


def test_next_token_loss_by_hand():
    # two labels: the first has probability 1/2, the second 1/8: log 2 + log 8 = log 16
    logits = logits_for([0.5, 0.25, 0.25], [0.125, 0.375, 0.5])
    loss = next_token_loss(logits, torch.tensor([[0, 0]]), torch.tensor([[True, True]]))
    assert loss.loss_sum.item() == pytest.approx(math.log(16), abs=1e-6)
    assert loss.counted.item() == 2


def test_uniform_logits_cost_log_vocabulary():
    B, T, V = 3, 5, 17
    mask = torch.ones(B, T, dtype=torch.bool)
    loss = next_token_loss(torch.zeros(B, T, V), torch.randint(V, (B, T)), mask)
    assert (loss.loss_sum / loss.counted).item() == pytest.approx(math.log(V), abs=1e-5)


def test_labels_that_do_not_count_change_nothing_and_get_no_gradient():
    logits = torch.randn(2, 4, 7, requires_grad=True)
    labels = torch.randint(7, (2, 4))
    mask = torch.tensor([[True, True, False, False], [False, True, False, True]])
    loss = next_token_loss(logits, labels, mask)
    other = next_token_loss(logits, labels.masked_fill(~mask, 6), mask)
    assert loss.loss_sum.item() == other.loss_sum.item() and loss.counted.item() == 4
    loss.loss_sum.backward()
    assert logits.grad is not None
    assert logits.grad[~mask].abs().max() == 0 and logits.grad[mask].abs().min(-1).values.max() > 0


def test_sums_add_up_over_rows():
    logits, labels = torch.randn(4, 3, 5), torch.randint(5, (4, 3))
    mask = torch.rand(4, 3) < 0.6
    whole = next_token_loss(logits, labels, mask)
    parts = [next_token_loss(logits[i : i + 1], labels[i : i + 1], mask[i : i + 1]) for i in range(4)]
    assert sum(p.loss_sum.item() for p in parts) == pytest.approx(whole.loss_sum.item(), rel=1e-5)
    assert sum(p.counted.item() for p in parts) == whole.counted.item()


def test_a_batch_without_labels_costs_nothing():
    loss = next_token_loss(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2).bool())
    assert loss.loss_sum.item() == 0 and loss.counted.item() == 0


def test_half_precision_logits_are_summed_in_fp32():
    # 4096 labels of log 2 each: bf16 sums would stall at a few hundred
    logits = torch.zeros(1, 4096, 2, dtype=torch.bfloat16)
    labels = torch.zeros(1, 4096, dtype=torch.long)
    loss = next_token_loss(logits, labels, torch.ones(1, 4096).bool())
    assert loss.loss_sum.item() == pytest.approx(4096 * math.log(2), rel=1e-5)


def test_logprobs_are_the_same_loss_row_by_row():
    logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[True, False, True], [True, True, True]])
    sums = sum_logprobs(logits, labels, mask)
    assert -sums.sum().item() == pytest.approx(next_token_loss(logits, labels, mask).loss_sum.item(), rel=1e-5)
    assert torch.allclose(mean_logprobs(logits, labels, mask), sums / torch.tensor([2.0, 3.0]))


def test_mean_of_an_empty_row_is_zero():
    nothing = torch.zeros(1, 2).bool()
    assert mean_logprobs(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), nothing).item() == 0
