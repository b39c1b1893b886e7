"""The published families, as values of our config and as names in their files.

A family says three things, each for both directions: what its config.json means (`read`, `write`) and which of its
tensors are which of ours (`parts`). No file outside labkit/hub knows a family's name.
"""

from labkit.hub import decoders, encoders, recurrent
from labkit.hub.parts import Family

FAMILIES: dict[str, Family] = {
    "llama": decoders.LLAMA,
    "mistral": decoders.MISTRAL,
    "mixtral": decoders.MIXTRAL,
    "qwen2": decoders.QWEN2,
    "qwen3": decoders.QWEN3,
    "gpt2": decoders.GPT2,
    "bloom": decoders.BLOOM,
    "bert": encoders.BERT,
    "t5": encoders.T5,
    "switch_transformers": encoders.SWITCH,
    "rwkv7": recurrent.RWKV7,
}
