"""A Transformer's weights in transformers' own model of the same shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labkit.model.transformer import ModelConfig, Transformer

_PARTS = {
    "self_attn.o_proj": "mixer.out",
    "self_attn.q_norm": "mixer.query_norm",
    "self_attn.k_norm": "mixer.key_norm",
    "mlp.down_proj": "feed_forward.down",
    "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "feed_forward_norm",
}
_NAMES = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight"}


def as_transformers(model: Transformer, attention: str = "sdpa") -> Any:
    """A LlamaForCausalLM with a copy of the model's weights, or a Qwen3ForCausalLM when it has ``qk_norm``.

    attention: transformers' ``attn_implementation``, "sdpa" or "eager".
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    c = model.config
    llama, qwen = (LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)
    classes: tuple[Any, Any] = qwen if c.qk_norm else llama
    config_class, model_class = classes
    config = config_class(
        vocab_size=c.vocabulary,
        hidden_size=c.width,
        intermediate_size=c.feed_forward.hidden,
        num_hidden_layers=c.depth,
        num_attention_heads=c.heads,
        num_key_value_heads=c.key_heads,
        head_dim=c.head_size,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.position.base},
        tie_word_embeddings=c.tied,
        attn_implementation=attention,
        use_cache=False,
    )
    theirs, ours = model_class(config), model.state_dict()
    theirs.load_state_dict({name: _weight(name, ours, c) for name in theirs.state_dict()})
    return theirs


def _weight(name: str, ours: dict[str, Tensor], c: ModelConfig) -> Tensor:
    """Our tensor for one of transformers' names: its own, or its rows of a matrix that we keep as one."""
    if name == "lm_head.weight":
        return ours["embedding.weight" if c.tied else "head.weight"]
    if name in _NAMES:
        return ours[_NAMES[name]]
    _, _, layer, *rest = name.split(".")
    block, part = f"blocks.{layer}.", ".".join(rest[:-1])
    if part in _PARTS:
        return ours[f"{block}{_PARTS[part]}.weight"]
    E = c.head_size
    q, k, v = ours[block + "mixer.qkv.weight"].split((c.heads * E, c.key_heads * E, c.key_heads * E))
    gate, up = ours[block + "feed_forward.gate_up.weight"].chunk(2)
    rows = {"q_proj": q, "k_proj": k, "v_proj": v, "gate_proj": gate, "up_proj": up}
    return rows[part.split(".")[-1]]
