"""Decoding: filters of the next token's distribution, and strategies of generation from a prompt."""

from labkit.decoding.beam import Beam, beam_search
from labkit.decoding.best import BestOfN, Judge, best_of
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
from labkit.decoding.stops import StopTexts
from labkit.decoding.stream import Candidate, Effect, Step, stream, trace, trace_forced

__all__ = [
    "Accepted",
    "Allowed",
    "Banned",
    "Beam",
    "BestOfN",
    "Candidate",
    "Effect",
    "Epsilon",
    "Filter",
    "FrequencyPenalty",
    "History",
    "Judge",
    "MinP",
    "NoRepeat",
    "PresencePenalty",
    "RepetitionPenalty",
    "Step",
    "StopTexts",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "apply",
    "beam_search",
    "best_of",
    "contrastive_search",
    "generate",
    "trace_forced",
    "speculative",
    "stream",
    "trace",
]
