"""Where a model's weights begin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from labkit.model.mixers import Attention
from labkit.model.positions import AttentionPositions, PositionEncoding


def init_weights(model: nn.Module, depth: int, std: float = 0.02) -> None:
    """Draw matrices from N(0, std²), those that write to the residual stream from N(0, std² / 2 depth), as in
    GPT-2 (Language Models are Unsupervised Multitask Learners, 2.3); norms start at one, biases at zero.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            writes = name.endswith(".out.weight") or (".feed_forward." in name and name.endswith(".down.weight"))
            nn.init.normal_(parameter, std=std / (2 * depth) ** 0.5 if writes else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


@torch.no_grad()
def init_previous_token_heads(
    embedding: nn.Embedding, attention: Attention, position: PositionEncoding, distance: int = 1, std: float = 0.02
) -> None:
    """Let every head of the first block's `attention` begin by looking `distance` tokens back.

    Copying from the context takes two steps: a head that looks at the token before, and a later one that finds
    what followed the same token earlier (In-context Learning and Induction Heads,
    https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads). The second cannot be learnt
    before the first is there. So all embeddings share one random vector, and what the first block's queries and
    keys make of it is one vector q turned to two places: its score is highest where they are `distance` apart.
    """
    width = embedding.embedding_dim
    shared = torch.randn(width) * std
    embedding.weight += shared
    direction = shared / shared.norm()
    H, K, E = attention.heads, attention.key_value_heads, attention.head_dim
    queries, keys, _ = attention.qkv.weight.split((H * E, K * E, K * E))
    back = torch.tensor([distance])
    places = AttentionPositions(position, back, back)
    for head in range(K):
        q = torch.randn(E) * std * width**0.5
        _, k = places.rotate_before_transpose(q.view(1, 1, 1, E), q.view(1, 1, 1, E))
        for i in range(head * H // K, (head + 1) * H // K):
            _answer(queries[i * E : (i + 1) * E], direction, q)
        _answer(keys[head * E : (head + 1) * E], direction, k.view(E))


def _answer(weight: Tensor, direction: Tensor, vector: Tensor) -> None:
    """Change weight [E, D] in place so that it takes `direction` [D] to `vector` [E], and all else as before."""
    weight += torch.outer(vector - weight @ direction, direction)


def register_weight_renames(module: nn.Module, older_to_current: Mapping[str, str]) -> None:
    """Let a module load weights whose names in it began otherwise when they were saved. older_to_current: how they
    began, and how they begin now.
    """

    def rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
        for key in list(state):
            name = key.removeprefix(prefix)
            before = next((one for one in older_to_current if key.startswith(prefix) and name.startswith(one)), None)
            if before is not None:
                state[prefix + older_to_current[before] + name.removeprefix(before)] = state.pop(key)

    module.__dict__["older_weights"] = {now: before for before, now in older_to_current.items()}
    module.register_load_state_dict_pre_hook(rename)


def renamed_weights_older_names(model: nn.Module) -> dict[str, str]:
    """{name of today: name that it was saved under before} of a model's renamed weights."""
    found = {}
    for prefix, module in model.named_modules():
        for now, before in getattr(module, "older_weights", {}).items():
            begins = f"{prefix}.{now}" if prefix else now
            for name, _ in model.named_parameters():
                if name.startswith(begins):
                    found[name] = f"{prefix}.{before}{name[len(begins) :]}" if prefix else before + name[len(begins) :]
    return found
