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
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
    apply,
)
from labkit.decoding.generate import generate
from labkit.decoding.speculative import SpeculativeResult, speculative
from labkit.decoding.stops import StopStrings
from labkit.decoding.stream import Candidate, FilterEffect, Step, stream, trace, trace_forced

__all__ = [
    "SpeculativeResult",
    "Allowed",
    "Banned",
    "Beam",
    "BestOfN",
    "Candidate",
    "FilterEffect",
    "Epsilon",
    "Filter",
    "FrequencyPenalty",
    "History",
    "Judge",
    "MinP",
    "NoRepeatNgram",
    "PresencePenalty",
    "RepetitionPenalty",
    "Step",
    "StopStrings",
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
