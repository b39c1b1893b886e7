"""The state of rollouts, shared out anew when a run goes on with another number of processes."""

import pytest
import torch

from labkit.stages.rollouts import RolloutSource


def source(rank: int, world_size: int) -> RolloutSource:
    """Only what a state is shared out by: batches of 12 answers, two to each prompt."""
    made = RolloutSource.__new__(RolloutSource)
    made.batch_size, made.num_generations, made.rank, made.world_size = 12, 2, rank, world_size
    return made


def state(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Each row holds its number in the batch, in as many columns as this process's longest answer has."""
    rows = [2 * prompt + each for prompt in range(rank, 6, world_size) for each in range(2)]
    inputs = torch.tensor(rows).unsqueeze(1).expand(-1, 3 + rank)
    return {"inputs": inputs, "mask": torch.ones_like(inputs, dtype=torch.bool), "reward": torch.tensor(0.5)}


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (3, 2), (2, 3)])
def test_each_process_gets_the_prompts_that_it_would_have_answered(before, now):
    states = [state(rank, before) for rank in range(before)]
    for rank in range(now):
        found, wanted = source(rank, now).reshard_states(states), state(rank, now)
        assert found["inputs"][:, 0].tolist() == wanted["inputs"][:, 0].tolist()
        assert found["reward"] == 0.5 and found["inputs"].shape[1] == 2 + before
        padded = [2 + before - (3 + int(row) // 2 % before) for row in found["inputs"][:, 0]]
        assert (~found["mask"]).sum(1).tolist() == padded  # what is added counts nowhere
