"""The two models of PPO as one module, for one optimizer and one checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer


class ActorCritic(nn.Module):
    """The actor writes; the critic says at every token what the answer will earn."""

    def __init__(self, actor: Transformer, critic: RewardModel):
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens, mask [B, T] as in Batch -> what the actor's head reads [B, T, D], and the critic's values [B, T]."""
        return self.actor.hidden_states(tokens), self.critic(tokens, mask)
