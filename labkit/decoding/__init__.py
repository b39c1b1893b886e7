"""Decoding: filters of the next token's distribution, and strategies of generation from a prompt."""

from labkit.decoding.beam import Beam, beam_search
from labkit.decoding.best import BestOfN, Judge, best_of_n
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
    filter_logits,
)
from labkit.decoding.generate import generate
from labkit.decoding.speculative import SpeculativeResult, speculative_decode
from labkit.decoding.stops import StopStrings
from labkit.decoding.stream import (
    CandidateToken,
    FilterEffect,
    TracedStep,
    stream_tokens,
    trace_generation,
    trace_given_tokens,
)

__all__ = [
    "SpeculativeResult",
    "Allowed",
    "Banned",
    "Beam",
    "BestOfN",
    "CandidateToken",
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
    "TracedStep",
    "StopStrings",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "filter_logits",
    "beam_search",
    "best_of_n",
    "contrastive_search",
    "generate",
    "trace_given_tokens",
    "speculative_decode",
    "stream_tokens",
    "trace_generation",
]
