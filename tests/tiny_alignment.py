"""A model of seconds and preference pairs about it, for the stages that learn from choices."""

import copy
from typing import Any

import torch

from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.reward_model import RewardModel
from labkit.stages import PreferenceSplit, StageInputs
from labkit.text.chat import texts_with_leading_space
from labkit.text.pairs import PreferencePair
from labkit.text.tokenizer import Tokenizer
from labkit.training.config import TrainConfig
from labkit.world import Message, World
from labkit.world.users import SimulatedUser

TRAIN = TrainConfig(
    steps=30, batch_size=8, max_length=64, optimizer="adamw", adamw_lr=3e-3, warmup_steps=3, precision="fp32"
)


def content_with_vowels(user: SimulatedUser) -> float:
    """In place of a user's satisfaction, at the end of a conversation: what an untrained model finds within seconds."""
    answers = [message.content for message in user.messages if message.role == "assistant"]
    return sum(vowel in answer for answer in answers for vowel in "aeiou") / len(answers)


def tiny_materials(**shared: Any) -> StageInputs:
    """Answers that are polite were chosen; the words before decide nothing. The model is untrained, and
    so is the wider one of the stage teacher.
    """
    world = World.load("tiny")
    conversations = [world.conversation("train", 0, index) for index in range(60)]
    tokenizer = Tokenizer.train([piece for document in conversations for piece in texts_with_leading_space(document)])
    names = world.lexicon.values["person"]
    pairs = [
        PreferencePair(
            (Message("user", f"Where is {who}?"),), f"Sure! {who} is in the {where}.", f"{who} is in the {where}."
        )
        for who in names
        for where in ("park", "shop", "garden")
    ]
    torch.manual_seed(0)
    shape = ModelConfig(
        tokenizer.vocab_size, 256, width=32, depth=2, heads=1, key_value_heads=1, feed_forward=Gated(64)
    )
    model = Transformer(shape).eval()
    wider = ModelConfig(tokenizer.vocab_size, 256, width=64, depth=2, heads=1, feed_forward=Gated(96))
    teacher = Transformer(wider).eval()
    reward_model = RewardModel(copy.deepcopy(model)).eval()
    return StageInputs(
        tokenizer,
        world,
        model_of=lambda name: copy.deepcopy(teacher if name == "teacher" else model),
        reward_model_of=lambda name: copy.deepcopy(reward_model),
        load_preferences=lambda: PreferenceSplit(pairs[::2], pairs[1::2]),
        predecessor="sft",
        reward_stage="reward",
        **shared,
    )
