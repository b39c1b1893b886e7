"""What keeps all experts of a mixture in use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def load_balancing_loss(
    router_probs: Tensor,
    expert_index: Tensor,
    mask: Tensor | None = None,
    all_reduce: Callable[[Tensor], Tensor] = lambda sum_: sum_,
) -> Tensor:
    """How unevenly a router spreads tokens: 1 when evenly, up to E when all go to one of E experts.

        loss = E / K * sum over experts e of (share of tokens sent to e) * (mean share that the router gives e)

    router_probs: [..., E], which add up to 1; expert_index: [..., K], the experts of each token; mask: [...] bool,
    False for padding, which is not counted (0 where nothing is). all_reduce: sums over all processes. Switch
    Transformers, https://arxiv.org/abs/2101.03961, equation 4; over K experts a token as in Mixtral's code.
    """
    E, K = router_probs.shape[-1], expert_index.shape[-1]
    sent, router_probs = F.one_hot(expert_index, E).float().sum(-2), router_probs.float()
    if mask is None:
        mask = torch.ones(router_probs.shape[:-1], dtype=torch.bool, device=router_probs.device)
    tokens = all_reduce(mask.sum()).clamp(min=1)
    # [E] each; mean_sent adds up to K, mean_prob to 1
    mean_sent, mean_prob = (all_reduce(x[mask].sum(0)) / tokens for x in (sent, router_probs))
    return E / K * (mean_sent * mean_prob).sum()
