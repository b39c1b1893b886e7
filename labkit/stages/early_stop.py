"""Early stop: a rollout is left as soon as the policy has moved too far from the policy that wrote it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class EarlyStop:
    """Which batch of which rollout comes next, where the steps on a rollout end early by KL.

    Before each step on a rollout but the first the KL of the policy since the rollout is measured. Above `max_kl` the
    steps that are left of `epochs` are skipped, and the step takes a new rollout: no step is taken without a gradient,
    and a stage has as many steps as its settings say. The state is the number of the rollout and that of its first
    batch, so that a resumed stage decides as one that was never stopped; every process measures the same KL.

    The stop of Spinning Up's PPO (https://spinningup.openai.com/en/latest/algorithms/ppo.html), which stops at 1.5
    times its target_kl and estimates the KL by the plain difference of log-probabilities; here max_kl is the bound
    itself, and the estimate is k3, which is never below 0.
    """

    def __init__(self, max_kl: float, epochs: int, batches_a_step: int):
        self.max_kl, self.epochs, self.batches_a_step = max_kl, epochs, batches_a_step
        self.iteration = self.first = self.skipped = 0
        self.kl = 0.0

    def place(self, number: int, measure: Callable[[], float]) -> tuple[int, int]:
        """(the rollout that batch `number` is of, which of its batches). measure: the KL since the rollout, in nats per
        token; called before each step on a rollout but the first.
        """
        within = number - self.first
        if within % self.batches_a_step:
            return self.iteration, within
        taken = within // self.batches_a_step
        self.kl = measure() if 0 < taken < self.epochs else 0.0
        self.skipped = 0
        if taken < self.epochs and self.kl <= self.max_kl:
            return self.iteration, within
        self.skipped = self.epochs - taken
        self.iteration, self.first = self.iteration + 1, number
        return self.iteration, 0

    def metrics(self, device: torch.device) -> dict[str, Tensor]:
        """Of the step that comes: skipped_steps, how many were left out of the rollout before, said once; rollout_kl,
        the KL that was measured before it, in nats per token: where steps were left out, the one that ended them.
        """
        return {
            "rollout_kl": torch.tensor(self.kl, device=device),
            "skipped_steps": torch.tensor(float(self.skipped), device=device),
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"iteration": torch.tensor(self.iteration), "first": torch.tensor(self.first)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.iteration, self.first = int(state["iteration"]), int(state["first"])
