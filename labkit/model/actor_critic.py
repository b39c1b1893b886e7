"""The two models of PPO as one module, for one optimizer and one checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from labkit.model.prefix_sharing import row_hidden_states
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

    def forward(self, inputs: Tensor, next_token_mask: Tensor, prefix_sharing: bool = False) -> ActorCriticOutput:
        """inputs, next_token_mask [B, T]: the inputs and the mask of a Batch. prefix_sharing: see
        `row_hidden_states`.
        """
        x = row_hidden_states(self.actor, inputs, next_token_mask, prefix_sharing)
        return ActorCriticOutput(x, self.critic(inputs, next_token_mask, prefix_sharing))


def actor_of(model: ActorCritic | Transformer) -> Transformer:
    """The policy of what a policy-gradient stage trains: of a pair the actor, else the model itself."""
    return model.actor if isinstance(model, ActorCritic) else model


def actor_critic_output(
    model: ActorCritic | Transformer, inputs: Tensor, next_token_mask: Tensor, prefix_sharing: bool = False
) -> ActorCriticOutput:
    """See `ActorCritic.forward`; without a critic every value is 0."""
    if isinstance(model, ActorCritic):
        return model(inputs, next_token_mask, prefix_sharing)
    x = row_hidden_states(model, inputs, next_token_mask, prefix_sharing)
    return ActorCriticOutput(x, torch.zeros(inputs.shape, device=inputs.device))
