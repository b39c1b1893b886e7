"""A Transformer that gives numbers instead of words: the reward model, and PPO's critic."""

from __future__ import annotations

from torch import Tensor, nn

from labkit.model.heads import ScalarHead
from labkit.model.transformer import ModelConfig, Transformer


class Scorer(nn.Module):
    """The Transformer `body` with a scalar head in place of its token head.

    As a reward model it is read at an answer's last token (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, 3.5);
    as a critic at every token.
    """

    def __init__(self, body: Transformer):
        super().__init__()
        self.body, self.head = body, ScalarHead(body.config.width)

    @property
    def config(self) -> ModelConfig:
        """The body's shape."""
        return self.body.config

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> numbers [B, T], each knowing the tokens up to its own."""
        return self.head(self.body.hidden(tokens))

    def last(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """The number at one token of each row: tokens [B, T], ends [B], the places of these tokens -> [B]."""
        return self(tokens).gather(1, ends.unsqueeze(1)).squeeze(1)
