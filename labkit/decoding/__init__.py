"""Decoding: filters of the next token's distribution, and writing on from prompts."""

from labkit.decoding.filters import Filter, Temperature, TopK, TopP
from labkit.decoding.generate import generate
from labkit.decoding.stream import stream

__all__ = ["Filter", "Temperature", "TopK", "TopP", "generate", "stream"]
