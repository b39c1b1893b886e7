"""Decoding: filters of the next token's distribution, and writing on from prompts."""

from labkit.decoding.filters import Filter, Temperature, TopK, TopP
from labkit.decoding.generate import generate
from labkit.decoding.stream import Candidate, Step, stream, trace

__all__ = ["Candidate", "Filter", "Step", "Temperature", "TopK", "TopP", "generate", "stream", "trace"]
