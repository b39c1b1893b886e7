"""What several tests of stages begin with."""

import pytest
import torch

from labkit.stages.rewards import REWARD_FUNCTIONS, reward_function
from tests.tiny_alignment import tiny_materials


@pytest.fixture(scope="module")
def stage_inputs():
    """Inputs with a small model that nothing has trained, computed by one thread."""
    torch.set_num_threads(1)
    return tiny_materials()


@pytest.fixture
def vowels():
    """A reward that an untrained model finds within seconds."""

    @reward_function("vowels")
    def different_vowels(prompt: str, response: str) -> float:
        return sum(vowel in response for vowel in "aeiou")

    yield
    REWARD_FUNCTIONS.clear()
