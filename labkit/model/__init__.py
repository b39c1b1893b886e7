"""The model: positions, mixers and feed-forwards, put together into a Transformer."""

from labkit.model.blocks import State
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary
from labkit.model.transformer import ModelConfig, Transformer

__all__ = ["Gated", "ModelConfig", "Rotary", "State", "Transformer"]
