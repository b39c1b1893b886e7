"""Decoding: filters of the next token's distribution, and strategies of writing on from a prompt."""

from labkit.decoding.beam import Beam, beam_search
from labkit.decoding.contrastive import contrastive_search
from labkit.decoding.filters import (
    Allowed,
    Banned,
    Epsilon,
    Filter,
    FrequencyPenalty,
    History,
    MinP,
    NoRepeat,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
    apply,
)
from labkit.decoding.generate import generate
from labkit.decoding.speculative import Accepted, speculative
from labkit.decoding.stream import Candidate, Step, stream, trace

__all__ = [
    "Accepted",
    "Allowed",
    "Banned",
    "Beam",
    "Candidate",
    "Epsilon",
    "Filter",
    "FrequencyPenalty",
    "History",
    "MinP",
    "NoRepeat",
    "PresencePenalty",
    "RepetitionPenalty",
    "Step",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "apply",
    "beam_search",
    "contrastive_search",
    "generate",
    "speculative",
    "stream",
    "trace",
]
