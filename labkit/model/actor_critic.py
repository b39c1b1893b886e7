"""The two models of PPO as one module, for one optimizer and one checkpoint."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer


class ActorCriticOutput(NamedTuple):
    """hidden_states [B, T, D]: what the actor's head reads; values [B, T]: what the critic says at every token."""

    hidden_states: Tensor
    values: Tensor


class ActorCritic(nn.Module):
    """The actor writes; the critic says at every token what the answer will earn."""

    def __init__(self, actor: Transformer, critic: RewardModel):
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, inputs: Tensor, next_token_mask: Tensor) -> ActorCriticOutput:
        """inputs, next_token_mask [B, T]: the inputs and the mask of a Batch."""
        return ActorCriticOutput(self.actor.hidden_states(inputs), self.critic(inputs, next_token_mask))
