"""All that is measured of a language model, before fine-tuning and after it: dictionaries of name -> value.

In the world the truth is known, so generated stories and answers are judged by the simulator that wrote the corpus.
Real text has no oracle; there the losses on held-out text and answers are what can be said.
"""

from __future__ import annotations

from labkit.evaluation.answers import answer_metrics
from labkit.evaluation.config import EvaluationConfig, TextData, WorldData, truncate_texts
from labkit.evaluation.held_out_loss import Metrics, document_loss, mismatched_prompt_loss, text_loss
from labkit.evaluation.stories import story_metrics
from labkit.model.transformer import Transformer
from labkit.text.tokenizer import Tokenizer


def evaluate_base(
    model: Transformer, tokenizer: Tokenizer, data: WorldData | TextData, config: EvaluationConfig
) -> Metrics:
    """A pretrained model: held-out loss; in the world also its stories, and its answers before any fine-
    tuning.
    """
    if isinstance(data, TextData):
        texts = truncate_texts(data.texts, config.characters)
        return text_loss(model, tokenizer, texts, data.max_length, config.loss_batch_size)
    documents = [data.world.document("validation", data.seed, index) for index in range(config.documents)]
    return {
        **document_loss(model, tokenizer, documents, data.max_length, config.loss_batch_size),
        **story_metrics(model, tokenizer, data, config),
        **answer_metrics(model, tokenizer, data, config, story_in_user_turn=False),
    }


def evaluate_chat(
    model: Transformer, tokenizer: Tokenizer, data: WorldData | TextData, config: EvaluationConfig
) -> Metrics:
    """A fine-tuned model: loss on held-out answers; in the world also accuracy, gold and unsupported
    claims.
    """
    if isinstance(data, TextData):
        conversations = list(data.conversations)[: config.documents]
        return {
            **document_loss(model, tokenizer, conversations, data.max_length, config.loss_batch_size, "answers"),
            **mismatched_prompt_loss(model, tokenizer, conversations, data.max_length, config.loss_batch_size),
        }
    documents = [data.world.conversation("validation", data.seed, index) for index in range(config.documents)]
    return {
        **document_loss(model, tokenizer, documents, data.max_length, config.loss_batch_size, "answers"),
        **answer_metrics(model, tokenizer, data, config, story_in_user_turn=True),
    }
