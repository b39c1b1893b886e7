"""What keeps all experts of a mixture in use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def load_balancing_loss(
    shares: Tensor, chosen: Tensor, mask: Tensor | None = None, total: Callable[[Tensor], Tensor] = lambda sum_: sum_
) -> Tensor:
    """How unevenly a router spreads tokens: 1 when evenly, up to E when all go to one of E experts.

        loss = E / K * sum over experts e of (share of tokens sent to e) * (mean share that the router gives e)

    shares: [..., E], the router's, that add up to 1; chosen: [..., K], the experts of each token; mask: [...] bool,
    False for padding, which is not counted (0 where nothing is). total: sums over all processes. Switch Transformers,
    https://arxiv.org/abs/2101.03961, equation 4; over K experts a token as in Mixtral's code.
    """
    E, K = shares.shape[-1], chosen.shape[-1]
    sent, shares = F.one_hot(chosen, E).float().sum(-2), shares.float()
    if mask is None:
        mask = torch.ones(shares.shape[:-1], dtype=torch.bool, device=shares.device)
    tokens = total(mask.sum()).clamp(min=1)
    mean_sent, mean_share = (total(x[mask].sum(0)) / tokens for x in (sent, shares))  # [E] each; mean_sent sums to K
    return E / K * (mean_sent * mean_share).sum()
