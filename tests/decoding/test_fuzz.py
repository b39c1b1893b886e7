"""Any line of a strategy, on any small model, gives texts or words: never a raw error.

LABKIT_FUZZ=10000 tries so many in place of a few hundred.
"""

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.configs import from_dict, to_dict
from labkit.decoding.limits import generation_cost
from labkit.decoding.strategies import FILTERS, OPTIONS, TOKEN_FILTERS, DecodingResources, parse_strategy
from labkit.errors import LabError
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.gru import GRU
from labkit.model.mixers import SelfAttention
from labkit.model.positions import ALiBi, Learned, NoPosition, Rotary, Shaw, Sinusoidal, T5Buckets
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig, Transformer

TRIES = int(os.environ.get("LABKIT_FUZZ", 150))
fuzzed = settings(
    max_examples=TRIES, deadline=None, derandomize=TRIES <= 150, suppress_health_check=list(HealthCheck), database=None
)
CONTEXT = 12


class Letters:
    """A tokenizer: each token a letter, of as many as there are."""

    def __init__(self, size: int):
        self.size = size

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % self.size for letter in text]

    def decode(self, tokens: Any) -> str:
        return "".join(chr(97 + token % 26) for token in tokens)

    def token_text(self, token: int) -> str:
        return self.decode([token])


def model_of(vocabulary: int, **changes: Any) -> Transformer:
    torch.manual_seed(vocabulary)
    shape: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "feed_forward": Gated(8)}
    model = Transformer(ModelConfig(vocabulary, CONTEXT, **shape | changes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return model


KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "encoder": {"encoder_depth": 1},
    "bidirectional": {"causal": False},
    "recurrent": {"mixer": GRU(), "position": NoPosition()},
}
MODELS = {(size, kind): model_of(size, **changes) for size in (1, 2, 7) for kind, changes in KINDS.items()}
DRAFTS: list[Transformer | None] = [
    None,
    *(model_of(size) for size in (2, 7)),
    model_of(7, mixer=GRU(), position=NoPosition()),
]
JUDGES: list[Any] = [
    None,
    lambda prompt, answers: [float(len(answer)) for answer in answers],
    lambda prompt, answers: [float("nan")] * len(answers),
    lambda prompt, answers: [],
]
VALUES = [
    "0", "1", "2", "3", "0.5", "0.9", "1.5", "-1", "-0.5", "nan", "inf", "-inf", "1e400", "1e-300", "1e300", "1e-5",
    "1000000000000", "10000000000000000000000000000", "", "x", "true", "false", "never", "#0", "#1", "#0,#1",
    "#0,#1,#2,#3,#4,#5,#6", "#99", "a", "a,b", ",",
]  # fmt: skip
NAMES = [
    *FILTERS,
    *TOKEN_FILTERS,
    *dict.fromkeys(name for options in OPTIONS.values() for name in options),
    "tempratur",
]


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A line that mostly makes sense: of each name a small number or what no one should write."""
    kind = draw(st.sampled_from([*OPTIONS, *OPTIONS, "", "bem"]))
    own = [*OPTIONS.get(kind, {}), *FILTERS, *TOKEN_FILTERS]
    names = draw(st.lists(st.sampled_from(own) | st.sampled_from(NAMES), max_size=4))
    words = [f"{name}={draw(st.sampled_from(VALUES[:7]) | st.sampled_from(VALUES))}" for name in names]
    return " ".join([kind, *words] if kind else words)


@fuzzed
@given(
    line=lines(),
    of=st.sampled_from(list(MODELS)),
    prompt=st.lists(st.integers(0, 6), max_size=3) | st.lists(st.integers(-1, 7), max_size=CONTEXT + 1),
    source=st.none() | st.lists(st.integers(0, 6), max_size=3),
    new=st.sampled_from([1, 2, 5, 5, 50, 0, -1, 10**12]),
    stop=st.lists(st.sampled_from(["a", "bc", ""]), max_size=2),
    stop_ids=st.sets(st.integers(0, 7), max_size=2),
    seeds=st.lists(st.sampled_from([0, 1, 2**32, -1, 2**64]), min_size=0, max_size=2) | st.just([0]),
    draft=st.sampled_from(DRAFTS),
    judge=st.sampled_from(JUDGES),
)
def test_a_line_gives_texts_or_words(line, of, prompt, source, new, stop, stop_ids, seeds, draft, judge):
    model: Any = MODELS[of]
    tokenizer: Any = Letters(of[0])
    try:
        strategy = parse_strategy(line)
        assert parse_strategy(str(strategy)) == strategy
        generation_cost(strategy, len(prompt), new, model)
        resources = DecodingResources(tokenizer, stop, draft, judge)
        given = {
            "max_new_tokens": new,
            "stop_ids": stop_ids,
            "resources": resources,
            "seeds": seeds,
            "encoder_prompt": source,
        }
        texts = strategy.generate(model, prompt, **given)
    except LabError as error:
        assert len(str(error)) > 20 and str(error)[-1] in ".)", error
        return
    assert len(texts) == len(seeds)
    for text in texts:
        assert len(text) <= min(new, CONTEXT - len(prompt)) and not stop_ids & set(text)
        assert all(0 <= token < of[0] for token in text)


SIZES = st.sampled_from([1, 2, 3, 4, 8, 8, 16, 0, -1])
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "vocabulary": st.sampled_from([1, 2, 9]),
    "context": st.sampled_from([1, 6, 6, 6]),
    "width": SIZES,
    "depth": st.sampled_from([1, 2, 0]),
    "heads": SIZES,
    "key_value_heads": st.none() | SIZES,
    "head_dim": st.none() | SIZES,
    "mixer": st.sampled_from([SelfAttention, SelfAttention, RWKV, GRU]).map(lambda kind: kind()),
    "qk_norm": st.booleans(),
    "tied": st.booleans(),
    "previous_token_init": st.sampled_from([0, 0, 1, 6, -1]),
    "norm": st.sampled_from(["rms", "layer", "batch"]),
    "norm_placement": st.sampled_from(["pre", "post"]),
    "bias": st.booleans(),
    "causal": st.booleans(),
    "encoder_depth": st.sampled_from([0, 0, 1, 2, -1]),
    "token_types": st.sampled_from([0, 2]),
    "embedding_norm": st.booleans(),
    "token_shift": st.booleans(),
    "logit_scale": st.sampled_from([1.0, 0.5, 0.0]),
    "attention_scale": st.none() | st.sampled_from([1.0, 0.1]),
    "head": st.sampled_from(["token", "masked"]),
    "classes": st.sampled_from([0, 3]),
}
SCALINGS = [
    None,
    lambda: LinearScaling(2.0),
    lambda: Llama3Scaling(original_max_position_embeddings=4),
    lambda: YaRN(4.0, 8),
    lambda: YaRN(0.5, 8),
]
POSITIONS = [
    NoPosition, Learned, Sinusoidal, ALiBi, Rotary, lambda: T5Buckets(8, 6), lambda: T5Buckets(8, 4), lambda: Shaw(2),
    lambda: T5Buckets(6), lambda: Shaw(0), *(lambda made=made: Rotary(100.0, made and made()) for made in SCALINGS),
]  # fmt: skip
FEED_FORWARDS = [
    lambda: Gated(4), lambda: Plain(4, "relu2"), lambda: Gated(0), lambda: MoE(Plain(4), 2, 1, False, 1.0),
    lambda: MoE(Gated(4), 3, 2, sparse_step=2), lambda: MoE(Gated(4), 2, 3),
]  # fmt: skip


@fuzzed
@given(
    parts=st.fixed_dictionaries({}, optional=PARTS),
    position=st.sampled_from(POSITIONS),
    feed=st.sampled_from(FEED_FORWARDS),
)
def test_a_config_is_a_model_or_words(parts, position, feed):
    try:
        config = ModelConfig(
            **{"vocabulary": 9, "context": 6, "width": 8, **parts}, position=position(), feed_forward=feed()
        )
        model = Transformer(config)
    except LabError as error:
        assert str(error)[-1] == "."
        return
    assert from_dict(ModelConfig, to_dict(config)) == config
    tokens = torch.zeros(2, config.context, dtype=torch.int64)
    mask = torch.arange(config.context) < torch.tensor([[config.context], [1]])
    memory = model.encode(tokens, mask) if config.encoder_depth else None
    logits = model(tokens, mask=mask, memory=memory)
    assert logits.shape == (2, config.context, config.vocabulary) and logits.isfinite().all()
    logits.sum().backward()
    if config.causal:
        model.eval()  # a mixture's capacity is of training
        state = model.new_state(2, config.context)
        pieces = [
            model(tokens[:, i : i + 1], mask=mask[:, i : i + 1], state=state, memory=memory)
            for i in range(config.context)
        ]
        torch.testing.assert_close(
            torch.cat(pieces, 1)[mask], model(tokens, mask=mask, memory=memory)[mask], atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_beams_have_room_for_one_token(beams):
    model = MODELS[7, "attention"]
    options: dict[str, Any] = {"max_new_tokens": 5, "stop_ids": []}
    (text,) = parse_strategy(f"beam beams={beams}").generate(model, [1] * (CONTEXT - 1), **options)
    with torch.no_grad():
        assert text == [int(model(torch.ones(1, CONTEXT - 1, dtype=torch.int64))[0, -1].argmax())]


def test_groups_of_beams_go_on_when_another_has_ended():
    """With one stop token and groups held apart, groups end at different steps; those that go on see whole rows."""
    model = MODELS[7, "attention"]
    options: dict[str, Any] = {"max_new_tokens": 9, "stop_ids": [3]}
    for penalty in (-2, 0, 1):
        (text,) = parse_strategy(f"beam beams=4 groups=4 diversity=5 length-penalty={penalty} no-repeat=2").generate(
            model, [1], **options
        )
        assert 3 not in text
