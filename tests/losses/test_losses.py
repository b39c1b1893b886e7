import math

import pytest
import torch

from labkit.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    entropy,
    load_balancing_loss,
    next_token_loss,
    pairwise_loss,
    sum_logprobs,
    token_logprobs,
)


def logits_for(*probabilities):
    """Logits whose softmax is exactly the given rows of probabilities: [1, T, V]."""
    return torch.tensor([probabilities]).log()


def test_next_token_loss_by_hand():
    # two labels: the first has probability 1/2, the second 1/8: log 2 + log 8 = log 16
    logits = logits_for([0.5, 0.25, 0.25], [0.125, 0.375, 0.5])
    loss = next_token_loss(logits, torch.tensor([[0, 0]]), torch.tensor([[True, True]]))
    assert loss.loss_sum.item() == pytest.approx(math.log(16), abs=1e-6)
    assert loss.label_count.item() == 2


def test_uniform_logits_cost_log_vocabulary():
    B, T, V = 3, 5, 17
    mask = torch.ones(B, T, dtype=torch.bool)
    loss = next_token_loss(torch.zeros(B, T, V), torch.randint(V, (B, T)), mask)
    assert (loss.loss_sum / loss.label_count).item() == pytest.approx(math.log(V), abs=1e-5)


def test_labels_that_do_not_count_change_nothing_and_get_no_gradient():
    logits = torch.randn(2, 4, 7, requires_grad=True)
    labels = torch.randint(7, (2, 4))
    mask = torch.tensor([[True, True, False, False], [False, True, False, True]])
    loss = next_token_loss(logits, labels, mask)
    other = next_token_loss(logits, labels.masked_fill(~mask, 6), mask)
    assert loss.loss_sum.item() == other.loss_sum.item() and loss.label_count.item() == 4
    loss.loss_sum.backward()
    assert logits.grad is not None
    assert logits.grad[~mask].abs().max() == 0 and logits.grad[mask].abs().min(-1).values.max() > 0


def test_sums_add_up_over_rows():
    logits, labels = torch.randn(4, 3, 5), torch.randint(5, (4, 3))
    mask = torch.rand(4, 3) < 0.6
    whole = next_token_loss(logits, labels, mask)
    parts = [next_token_loss(logits[i : i + 1], labels[i : i + 1], mask[i : i + 1]) for i in range(4)]
    assert sum(p.loss_sum.item() for p in parts) == pytest.approx(whole.loss_sum.item(), rel=1e-5)
    assert sum(p.label_count.item() for p in parts) == whole.label_count.item()


def test_a_batch_without_labels_costs_nothing():
    loss = next_token_loss(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2).bool())
    assert loss.loss_sum.item() == 0 and loss.label_count.item() == 0


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


def test_pairwise_loss_by_hand():
    # sigmoid(log 3) = 3/4, so scores log 3 apart cost log 4/3, or log 4 the other way round
    loss = pairwise_loss(torch.tensor([math.log(3), 0.0, 5.0]), torch.tensor([0.0, math.log(3), 5.0]))
    assert loss.loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)], abs=1e-6)
    assert loss.correct.tolist() == [True, False, False]


def test_pairwise_loss_knows_differences_only():
    chosen, rejected = torch.randn(2, 9)
    torch.testing.assert_close(pairwise_loss(chosen + 7, rejected + 7).loss, pairwise_loss(chosen, rejected).loss)


def test_dpo_loss_by_hand():
    # rewards 0.5 (-1 + 2) = 0.5 and 0.5 (-3 + 2) = -0.5: the loss is -log sigmoid(1) = log(1 + 1/e)
    loss = dpo_loss(*(torch.tensor([x]) for x in (-1.0, -3.0, -2.0, -2.0)), beta=0.5)
    assert loss.chosen_reward.item() == 0.5 and loss.rejected_reward.item() == -0.5
    assert loss.loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_dpo_of_the_reference_itself_is_log_2():
    chosen, rejected = torch.randn(2, 6)
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=0.3)
    assert loss.loss.tolist() == pytest.approx([math.log(2)] * 6)


def test_dpo_gradient_lifts_the_chosen_answer_and_lowers_the_rejected():
    policy = torch.zeros(2, 1, requires_grad=True)
    dpo_loss(policy[0], policy[1], torch.zeros(1), torch.zeros(1), beta=0.4).loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([-0.2, 0.2])  # beta times sigmoid(0)


def test_dpo_reads_shifted_labels_of_the_answer_alone():
    # ids 1 2 | 3 0: the answer "3 0" is predicted at the inputs 2 and 3, with 1/2 and 1/4: log 1/8 in all
    logits = logits_for([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.2, 0.5], [0.25, 0.25, 0.25, 0.25])
    labels, mask = torch.tensor([[2, 3, 0]]), torch.tensor([[False, True, True]])
    assert sum_logprobs(logits, labels, mask).item() == pytest.approx(math.log(1 / 8), abs=1e-6)


def one_row(*values):
    return torch.tensor([values], dtype=torch.float32)


def test_clipped_policy_loss_by_hand():
    # ratios 1.5, 0.5, 1.5, 0.5 with advantages 1, 1, -1, -1 and clip 0.2:
    # min(1.5, 1.2), min(0.5, 0.8), min(-1.5, -1.2), min(-0.5, -0.8) = 1.2, 0.5, -1.5, -0.8
    logprobs, old = one_row(1.5, 0.5, 1.5, 0.5).log(), torch.zeros(1, 4)
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = clipped_policy_loss(logprobs, old, one_row(1, 1, -1, -1), mask, cliprange=0.2)
    assert loss.loss_sum.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8), abs=1e-6)
    assert loss.clipped_sum.item() == 2


def test_where_nothing_moved_the_clipped_gradient_is_the_policy_gradient():
    logprobs = torch.randn(2, 3, requires_grad=True)
    advantages, mask = torch.randn(2, 3), torch.tensor([[True, True, False], [True, True, True]])
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, mask, cliprange=0.2)
    loss.loss_sum.backward()
    torch.testing.assert_close(logprobs.grad, -advantages * mask)
    assert loss.clipped_sum.item() == 0


def test_a_clipped_token_has_no_gradient():
    logprobs = one_row(0.5, -0.5).requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    clipped_policy_loss(logprobs, torch.zeros(1, 2), one_row(1, -1), mask, cliprange=0.2).loss_sum.backward()
    assert logprobs.grad is not None and logprobs.grad.abs().max() == 0


def test_clipped_value_loss_by_hand():
    # old 0, clip 0.2. Value 1 and return 2: max(1, (0.2 - 2)^2 = 3.24); value 0.1 and return 1: 0.81, held the same
    loss = clipped_value_loss(
        one_row(1, 0.1, 9),
        torch.zeros(1, 3),
        one_row(2, 1, 0),
        torch.tensor([[True, True, False]]),
        cliprange_value=0.2,
    )
    assert loss.loss_sum.item() == pytest.approx((3.24 + 0.81) / 2, abs=1e-6)
    assert loss.clipped_sum.item() == 1


def test_with_a_wide_clip_the_value_loss_is_half_the_squared_error():
    values, old, returns = torch.randn(3, 2, 5)
    mask = torch.rand(2, 5) < 0.5
    loss = clipped_value_loss(values, old, returns, mask, cliprange_value=100.0)
    torch.testing.assert_close(loss.loss_sum, 0.5 * ((values - returns) ** 2)[mask].sum())


def test_entropy_by_hand():
    # 1/2, 1/4, 1/4: half a log 2 and twice a quarter of log 4
    assert entropy(logits_for([0.5, 0.25, 0.25])).item() == pytest.approx(1.5 * math.log(2), abs=1e-6)
    assert entropy(torch.zeros(1, 1, 11)).item() == pytest.approx(math.log(11), abs=1e-6)


def test_load_balance_by_hand():
    """Two experts, four tokens: three go to the first (.75), whose mean share is .7; one to the second (.25, .3).
    2 · (.75 · .7 + .25 · .3) = 1.2. Evenly it is 1, all on one 2.
    """
    shares = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    chosen = torch.tensor([[0], [0], [0], [1]])
    torch.testing.assert_close(load_balancing_loss(shares, chosen), torch.tensor(1.2))
    even = torch.full((4, 2), 0.5)
    torch.testing.assert_close(load_balancing_loss(even, torch.tensor([[0], [1], [0], [1]])), torch.tensor(1.0))
    one = torch.tensor([[1.0, 0.0]] * 4)
    torch.testing.assert_close(load_balancing_loss(one, torch.zeros(4, 1, dtype=torch.int64)), torch.tensor(2.0))
    both = torch.tensor([[0, 1]] * 4)  # every token to both: even, however the router leans
    torch.testing.assert_close(load_balancing_loss(shares, both), torch.tensor(1.0))
    padded = torch.cat((shares, torch.tensor([[0.0, 1.0]] * 3)))  # padding is not counted
    mask = torch.tensor([True] * 4 + [False] * 3)
    found = load_balancing_loss(padded, torch.tensor([[0], [0], [0], [1], [1], [1], [1]]), mask)
    torch.testing.assert_close(found, torch.tensor(1.2))
    assert load_balancing_loss(shares, chosen, torch.zeros(4, dtype=torch.bool)) == 0


def test_what_a_filter_forbids_adds_nothing_to_the_entropy():
    """1/2 and 1/2 of three tokens, of which one is forbidden: log 2; and a gradient that is a number."""
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]], requires_grad=True)
    found = entropy(logits)
    assert found.item() == pytest.approx(math.log(2))
    found.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_slice_costs_what_its_copy_does():
    """Logits that are not contiguous, as those of all but the last token are not."""
    logits, labels = torch.randn(2, 4, 5)[:, :-1], torch.randint(5, (2, 4))[:, 1:]
    mask = torch.tensor([[True, True, True, False], [True, False, True, True]])[:, 1:]
    assert not logits.is_contiguous() and not labels.is_contiguous()
    copies = logits.contiguous(), labels.contiguous()
    assert next_token_loss(logits, labels, mask).loss_sum == next_token_loss(*copies, mask).loss_sum
    transposed = torch.randn(3, 2, 5).transpose(0, 1)
    torch.testing.assert_close(token_logprobs(transposed, labels), token_logprobs(transposed.contiguous(), copies[1]))
