"""The matrix products that a step of alignment cannot do without, counted in floating-point operations.

Counted are real tokens alone, padding is not, and a prompt once, however many answers there are to it; the head where a
label is asked for alone; attention as far as a token may look. A forward pass takes 2 FLOPs for each weight and token,
forward and backward together 6. A rollout is sampled (each prompt read once, each token of an answer once) and read
once each by what judges it: the reference and the reward model, in PPO the value model too. The policy's own
log-probabilities can be kept while sampling and cost nothing more.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labkit.bench.align_worker import AlignBatch, StageName
    from labkit.model.transformer import Transformer


class Group(NamedTuple):
    """A prompt and the answers to it: tokens of each."""

    prompt: int
    answers: tuple[int, ...]


def forward_flops(model: Transformer, group: Group, head: bool = True) -> float:
    """Of one pass over a prompt and its answers, each of which sees the prompt and itself. head: with the token head,
    for each token of an answer.
    """
    config = model.config
    tokens, labels = group.prompt + sum(group.answers), sum(group.answers)
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.dim() > 1)
    looks = group.prompt * (group.prompt + 1) / 2  # how often a token looks at one
    looks += sum(length * (group.prompt + (length + 1) / 2) for length in group.answers)
    attention = 4.0 * looks * config.depth * config.heads * config.attention_config.head_dim
    return 2.0 * matrices * tokens + attention + (2.0 * config.vocabulary * config.width * labels if head else 0.0)


def step_flops(stage: StageName, batch: AlignBatch, folder: Path) -> float:
    """Of an optimizer step on `batch`, in the mean over the pairs or prompts of the folder."""
    from labkit.bench.align_worker import labkit_inputs
    from labkit.text.pairs import encode_pairs

    inputs = labkit_inputs(folder)
    model = inputs.predecessor_model()
    rows = encode_pairs(inputs.tokenizer, inputs.fitting_pairs(batch.max_length))
    if stage in ("dpo", "reward"):
        groups = [
            Group(sum(not one for one in chosen), (sum(chosen), sum(rejected))) for (_, chosen), (_, rejected) in rows
        ]
        return 3 * batch.pairs * mean(forward_flops(model, group, head=stage == "dpo") for group in groups)
    answers = batch.num_generations if stage == "grpo" else 1
    prompts = inputs.prompts(batch.max_length, batch.max_new_tokens)
    lengths = [len(prompt) for prompt in prompts.prompts]
    groups = [Group(length, (batch.max_new_tokens,) * answers) for length in lengths]
    with_head = mean(forward_flops(model, group) for group in groups)
    without = mean(forward_flops(model, group, head=False) for group in groups)
    sampled, reference, reward = with_head, with_head, without
    each = sampled + reference + reward + 3 * with_head
    if stage == "ppo":
        each = (sampled + reference + 2 * reward) / batch.ppo_epochs + 3 * (with_head + without)
    return batch.answers / answers * each
