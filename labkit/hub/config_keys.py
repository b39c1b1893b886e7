"""What each key of a published config.json means here: read, without effect, or known at one value alone.

A key that changes what the model computes is never passed over in silence: transformers' own config classes know the
keys that are listed here, family by family, and what they do not know is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from labkit.errors import LabError

IDLE = frozenset(
    "_attn_implementation_autoset _commit_hash _name_or_path architectures attention_dropout attn_implementation "
    "bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward classifier_dropout "
    "decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size "
    "eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id "
    "gradient_checkpointing id2label initializer_range is_llama_config keys_to_ignore_at_inference label2id "
    "length_penalty max_length max_new_tokens min_length model_type no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_attentions output_hidden_states output_past output_scores pad_token_id prefix "
    "pretraining_tp problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate "
    "sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p "
    "torch_dtype torchscript transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version "
    "use_bfloat16 use_cache vocab_size_multiple".split()
)
"""Keys of any family that only training, generation or book-keeping ask for."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "causal": (True,),
    "is_causal": (True,),  # transformers makes the mask of any decoder by it, whatever the family
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "pruned_heads": ({},),
    "scale_attn_weights": (True,),
    "tie_encoder_decoder": (False,),
}
"""Keys of any family that are known at these values alone: all that are usually on stand here, for a key that nobody
knows is passed over where it is off."""
QUANTIZED = ("quantization_config", "compression_config")


class ConfigKeys(NamedTuple):
    """used: the keys that our config is made of, as words. required_values: what a key must be where it is given.
    ignored: keys without effect on what the model computes, as words. defaults: transformers' own, for keys that may be
    missing.
    """

    used: str
    required_values: Mapping[str, tuple[Any, ...]] = {}
    ignored: str = ""
    defaults: Mapping[str, Any] = {}

    def all_keys(self) -> frozenset[str]:
        """All keys that mean something here."""
        return IDLE | FIXED.keys() | self.required_values.keys() | set(self.used.split()) | set(self.ignored.split())

    def check(self, config: Mapping[str, Any], where: str) -> None:
        """Raises LabError for a key at a value that would be another model, and for a key that nobody knows, unless
        it is off (none, false, 0 or empty) or private to what wrote it (_key).
        """
        for key in QUANTIZED:
            if config.get(key):
                raise LabError(
                    f"{where}: the weights are quantized ({_method(config[key])}), which is not supported. {_MEND}"
                )
        for key, allowed in {**FIXED, **self.required_values}.items():
            value = config.get(key, allowed[0])
            if value not in allowed and not (value is None and not any(allowed)):
                known = " or ".join(str(one) for one in allowed)
                raise LabError(f"{where} has {key} = {value!r}, which is not supported, only {known}.")
        unknown = sorted(
            key for key, value in config.items() if value and key[:1] != "_" and key not in self.all_keys()
        )
        if unknown:
            raise LabError(
                f"{where} has {', '.join(unknown)}, which no {config['model_type']} in transformers has, so it may be "
                "a different model. Remove the keys that do not change the model."
            )


_MEND = "Use the original weights, or dequantize them first; quantized GGUF files are supported."


def _method(config: Any) -> str:
    """What a quantization calls itself: gptq, awq, bitsandbytes, compressed-tensors, fp8 and others."""
    if not isinstance(config, Mapping):
        return str(config)
    return str(config.get("quant_method") or ("bitsandbytes" if config.get("load_in_4bit") else "of an unknown type"))
