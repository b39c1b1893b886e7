"""Decoding: filters of the next token's distribution, and writing on from prompts."""

from labkit.decoding.filters import Filter, Temperature, TopK, TopP
from labkit.decoding.generate import generate

__all__ = ["Filter", "Temperature", "TopK", "TopP", "generate"]
