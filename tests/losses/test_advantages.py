"""What each token was worth: worked examples, and the two ends of GAE."""

import pytest
import torch

from labkit.losses.advantages import discounted_returns, gae, last_token_mask, shaped_rewards, whiten, whiten_together


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def some(seed: int = 0, B: int = 4, T: int = 9):
    """Rewards, values and a mask whose rows are a prompt, an answer and padding."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, B, T, generator=generator)
    starts = torch.randint(0, 4, (B, 1), generator=generator)
    ends = starts + torch.randint(1, T - 3, (B, 1), generator=generator)
    columns = torch.arange(T)
    return rewards, values, (columns >= starts) & (columns < ends)


def test_the_last_token_that_counts():
    mask = torch.tensor([[False, True, True, False], [False, False, False, False], [True, True, True, True]])
    assert last_token_mask(mask).nonzero().tolist() == [[0, 2], [2, 3]]


def test_shaped_rewards_by_hand():
    # the prompt costs nothing; the answer's tokens are 0.5 more and 1 less likely than for the reference, at 0.2 a nat
    mask = torch.tensor([[False, True, True, False]])
    shaped = shaped_rewards(rows(3.0)[0:1], rows([9, -1, -3, 9]), rows([0, -1.5, -2, 0]), mask, kl_coef=0.2)
    assert shaped[0].tolist() == pytest.approx([0, -0.1, 0.2 + 3, 0])


def test_shaped_rewards_of_the_reference_itself_are_the_score():
    _, logprobs, mask = some()
    scores = torch.arange(4.0)
    shaped = shaped_rewards(scores, logprobs, logprobs, mask, kl_coef=0.5)
    assert torch.equal(shaped, scores.unsqueeze(-1) * last_token_mask(mask))


def test_returns_by_hand():
    mask = torch.tensor([[True, True, True, False]])
    assert discounted_returns(rows([1, 2, 4, 8]), mask, gamma=0.5)[0].tolist() == [1 + 0.5 * 4, 2 + 0.5 * 4, 4, 0]


def test_gae_by_hand():
    # gamma 0.5, lambda 0.5: errors 1 + 0.5 * 4 - 2 = 1 and 0 - 4 = -4, so 1 + 0.25 * -4 = 0 and -4
    mask = torch.tensor([[False, True, True, False]])
    found = gae(rows([7, 1, 0, 7]), rows([7, 2, 4, 7]), mask, gamma=0.5, lam=0.5)
    assert found.advantages[0].tolist() == [0, 0, -4, 0]
    assert found.returns[0].tolist() == [0, 2, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_at_lambda_0_advantages_are_one_step_errors(seed):
    rewards, values, mask = some(seed)
    values = values * mask
    after = torch.cat((values[:, 1:], torch.zeros(4, 1)), dim=1)
    expected = (rewards + 0.9 * after - values) * mask
    torch.testing.assert_close(gae(rewards, values, mask, gamma=0.9, lam=0.0).advantages, expected)


@pytest.mark.parametrize("seed", range(5))
def test_at_lambda_1_advantages_are_returns_less_values(seed):
    rewards, values, mask = some(seed)
    found = gae(rewards, values, mask, gamma=0.9, lam=1.0)
    returns = discounted_returns(rewards, mask, gamma=0.9)
    torch.testing.assert_close(found.advantages, returns - values * mask)
    torch.testing.assert_close(found.returns, returns)


def test_a_perfect_critic_leaves_no_advantage():
    rewards, _, mask = some()
    returns = discounted_returns(rewards, mask, gamma=0.95)
    for lam in (0.0, 0.5, 1.0):
        assert gae(rewards, returns, mask, gamma=0.95, lam=lam).advantages.abs().max() < 1e-5


def test_what_is_not_counted_has_no_say():
    rewards, values, mask = some()
    other = gae(rewards + 5 * ~mask, values - 3 * ~mask, mask, gamma=0.9, lam=0.8)
    torch.testing.assert_close(other, gae(rewards, values, mask, gamma=0.9, lam=0.8))


def test_whitened_over_what_counts():
    x, _, mask = some()
    white = whiten(3 * x + 8, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-5)
    assert white[mask].var(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    assert white[~mask].abs().max() == 0
    torch.testing.assert_close(white, whiten(x, mask), atol=1e-4, rtol=1e-4)


def test_whitened_together_as_one():
    """Two batches of other widths, and two processes: as all of their tokens in one."""
    (x, _, mask), (y, _, other_mask) = some(0, 4, 9), some(1, 3, 6)
    parts, masks = [x, y], [mask, other_mask]
    values = torch.cat([part[counted] for part, counted in zip(parts, masks, strict=True)])
    found = torch.cat([w[m] for w, m in zip(whiten_together(parts, masks), masks, strict=True)])
    torch.testing.assert_close(found, (values - values.mean()) / values.std(unbiased=False), atol=1e-5, rtol=1e-5)
    others = iter([masks[1].sum(), (parts[1] * masks[1]).sum(), ((parts[1] - values.mean()) ** 2 * masks[1]).sum()])
    (alone,) = whiten_together(parts[:1], masks[:1], lambda part: part + next(others))
    torch.testing.assert_close(alone[masks[0]], found[: int(masks[0].sum())], atol=1e-5, rtol=1e-5)


def test_what_the_user_says_between_two_answers_takes_no_time():
    """Columns that are not counted change nothing, wherever they stand; garbage in them neither."""
    rewards, values, _ = some()
    counted = torch.ones(rewards.shape, dtype=torch.bool)
    expected = gae(rewards, values, counted, gamma=0.9, lam=0.7)
    places = [0, 1, 5, 6, 7, 11, 12, 13, 14]  # three answers
    wide = torch.full((4, 16), 99.0)
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[:, places] = True
    spread_rewards, spread_values = wide.clone(), wide.clone()
    spread_rewards[:, places], spread_values[:, places] = rewards, values
    found = gae(spread_rewards, spread_values, mask, gamma=0.9, lam=0.7)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[:, places], other) and not one[~mask].any()
    returns = discounted_returns(rows([0, 8, 8, 0, 1]), torch.tensor([[True, False, False, True, True]]), gamma=0.5)
    assert returns[0].tolist() == [0.25, 0, 0, 0.5, 1]
