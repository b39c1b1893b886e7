"""A Transformer that gives numbers instead of words: the reward model, and PPO's critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.heads import ScalarHead
from labkit.model.initial import register_weight_renames
from labkit.model.prefix_sharing import row_hidden_states
from labkit.model.transformer import ModelConfig, Transformer


class RewardModel(nn.Module):
    """The Transformer `body` with a scalar head beside its token head, on the body's device.

    As a reward model it is read at an answer's last token (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, 3.5);
    as a critic at every token. To the head's number comes `logprob_weight`, which is learnt too and begins at 1,
    times the mean log-probability that the body's own token head gives the answer so far: the reward that a policy
    implies by length (SimPO, Meng et al. 2024, https://arxiv.org/abs/2405.14734, equation 3). A small model that
    answers well cannot say from its last hidden vector alone whether an answer is right; how likely it would have been
    to give that answer itself says most of it.

    As a process reward model it is read at the last token of each step of an answer (`step_scores`), and the mean is
    over the step's own tokens.
    """

    def __init__(self, body: Transformer):
        super().__init__()
        register_weight_renames(self, {"likelihood": "logprob_weight"})
        self.body = body
        with torch.device(body.embedding.weight.device):
            self.head = ScalarHead(body.config.width)
            self.logprob_weight = nn.Parameter(torch.ones(()))

    @property
    def config(self) -> ModelConfig:
        """The body's shape."""
        return self.body.config

    def forward(self, tokens: Tensor, next_token_mask: Tensor, prefix_sharing: bool = False) -> Tensor:
        """A number for each token, [B, T], which knows the tokens up to its own: tokens [B, T]; next_token_mask [B, T],
        True where the *next* token belongs to the answer, as in Batch. prefix_sharing: see `row_hidden_states`.
        """
        x, own = self._read(tokens, next_token_mask, prefix_sharing)
        means = own.cumsum(-1) / next_token_mask[:, :-1].cumsum(-1).clamp(min=1)
        return self.head(x) + self.logprob_weight * F.pad(means, (1, 0))

    def step_scores(self, tokens: Tensor, next_token_mask: Tensor, step_ends: Tensor) -> Tensor:
        """A number for each step of an answer, at its last token: tokens, next_token_mask [B, T] as in `forward`;
        step_ends [B, T] bool -> [B, T], which says nothing elsewhere.
        """
        x, own = self._read(tokens, next_token_mask, prefix_sharing=False)
        sums, counts = F.pad(own.cumsum(-1), (1, 0)), F.pad(next_token_mask[:, :-1].cumsum(-1), (1, 0))
        # Up to the last step's end: sums of log-probabilities only fall, and counts only grow.
        sums_before = _shift(sums.masked_fill(~step_ends, 0.0)).cummin(-1).values
        counts_before = _shift(counts.masked_fill(~step_ends, 0)).cummax(-1).values
        return self.head(x) + self.logprob_weight * (sums - sums_before) / (counts - counts_before).clamp(min=1)

    def _read(self, tokens: Tensor, next_token_mask: Tensor, prefix_sharing: bool) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, D], and the log-probability of each of the answer's tokens after those before it,
        [B, T - 1], 0 elsewhere.
        """
        x = row_hidden_states(self.body, tokens, next_token_mask, prefix_sharing)
        return x, self.body.label_logprobs(x[:, :-1], tokens[:, 1:], next_token_mask[:, :-1])

    def scores_at(
        self, tokens: Tensor, next_token_mask: Tensor, last_token_index: Tensor, prefix_sharing: bool = False
    ) -> Tensor:
        """The number at one token of each row, [B]: tokens, next_token_mask [B, T]; last_token_index [B], the places of
        these tokens.
        """
        return self(tokens, next_token_mask, prefix_sharing).gather(1, last_token_index.unsqueeze(1)).squeeze(1)


def _shift(x: Tensor) -> Tensor:
    """x [B, T] a place later, 0 first."""
    return F.pad(x[:, :-1], (1, 0))
