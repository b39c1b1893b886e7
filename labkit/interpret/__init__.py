"""Look inside a model: what it attends to, what that causes, what each layer would say, which head does what.

look = Inspection(model, tokenizer, ids)
look.attention_maps[0].weights[layer, head]        # who looks at whom
look.score_breakdown(0, layer, head, row, column)  # where one of these numbers comes from
look.ablate(0, layer, head)                        # what changes when the head is taken out
look.logit_lens()                                  # every layer read out as words
activation_patching(model, clean, corrupted)       # which of a text's numbers make the difference to another text
find_heads(model, tokenizer, examples)             # heads by what they do
"""

from labkit.interpret.coreference import (
    CorefExample,
    token_index_at_character,
    winograd_example,
    winograd_examples,
    world_coref_examples,
)
from labkit.interpret.heads import HeadReport, HeadScore, accuracy_and_standard_error, answer_log_odds, find_heads
from labkit.interpret.inspection import AttentionMap, Inspection, PredictionShift, ScoreBreakdown
from labkit.interpret.limits import attention_bytes, check_attention_memory, check_patching_cost
from labkit.interpret.patching import AnswerIds, PatchingResult, activation_patching
from labkit.interpret.taps import AblateHeads, ActivationRecorder, PatchActivations
from labkit.interpret.views import CheckpointInspections

__all__ = [
    "AnswerIds",
    "AblateHeads",
    "ScoreBreakdown",
    "PredictionShift",
    "HeadReport",
    "HeadScore",
    "Inspection",
    "AttentionMap",
    "PatchingResult",
    "CorefExample",
    "ActivationRecorder",
    "PatchActivations",
    "CheckpointInspections",
    "accuracy_and_standard_error",
    "attention_bytes",
    "check_attention_memory",
    "check_patching_cost",
    "find_heads",
    "answer_log_odds",
    "activation_patching",
    "winograd_example",
    "winograd_examples",
    "token_index_at_character",
    "world_coref_examples",
]
