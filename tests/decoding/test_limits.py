"""What a strategy and a look at attention cost, by numbers worked out by hand."""

import pytest
import torch

from labkit.decoding.limits import GenerationCost, check_generation_cost, generation_cost
from labkit.decoding.strategies import parse_strategy
from labkit.errors import LabError
from labkit.interpret import Inspection, attention_bytes, check_attention_memory
from labkit.model import Gated, ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(ModelConfig(19, 48, 24, depth=3, heads=2, key_value_heads=1, feed_forward=Gated(32)))


@pytest.mark.parametrize(
    ("line", "rows", "tokens"),
    [
        ("greedy", 1, 10 + 20),
        ("temperature=1", 1, 10 + 20),
        ("beam beams=5", 5, 10 + 5 * 20),
        ("contrastive k=3", 3, 10 + 3 * 20),
        ("best n=4", 4, 10 + 4 * 20 + 4 * 30),  # the judge reads prompt and answer
        ("speculative ahead=4", 1, 10 + 20 * 5),
    ],
)
def test_rows_and_tokens_of_each_kind(model, line, rows, tokens):
    found = generation_cost(parse_strategy(line), 10, 20, model)
    assert (found.batch_size, found.processed_tokens) == (rows, tokens)
    assert found.flops == pytest.approx(tokens * model.training_flops_per_token(30) / 3)


def test_keys_and_values_in_bytes(model):
    """Two numbers of 4 bytes for each of 5 rows, 30 tokens, 3 layers, 1 key head, 12 numbers wide."""
    assert generation_cost(parse_strategy("beam beams=5"), 10, 20, model).kv_cache_bytes == 2 * 4 * 5 * 30 * 3 * 1 * 12


def test_what_the_context_cuts_off_costs_nothing(model):
    assert generation_cost(parse_strategy("greedy"), 40, 1000, model) == generation_cost(
        parse_strategy("greedy"), 40, 8, model
    )


def test_what_is_above_a_ceiling_is_refused_in_words(model):
    with pytest.raises(LabError, match=r"beam beams=1000 is 1,000 texts at once; the limit is 32\. Use a smaller bea"):
        check_generation_cost(parse_strategy("beam beams=1000"), 10, 20, model)
    small = GenerationCost(batch_size=64, processed_tokens=100, flops=1e12, kv_cache_bytes=1e9)
    with pytest.raises(LabError, match=r"best n=8 is 410 tokens to process; the limit is 100\. Use a smaller n="):
        check_generation_cost(parse_strategy("best n=8"), 10, 20, model, small)
    with pytest.raises(LabError, match=r"greedy is 0\.0 TFLOP; .* Use fewer tokens"):
        check_generation_cost(parse_strategy("greedy"), 10, 20, model, small._replace(flops=1))
    assert check_generation_cost(parse_strategy("beam beams=4"), 10, 20, model).batch_size == 4


def test_attention_takes_the_square_of_the_length(model):
    """2 heads, T = 30: scores and weights of 3 layers, and 32 copies of one layer's weights, of 4 bytes each."""
    assert attention_bytes(model, 30) == 4 * 2 * 30 * 30 * (2 * 3 + 32)
    assert attention_bytes(model, 60) == 4 * attention_bytes(model, 30)
    with pytest.raises(LabError, match=r"of 30 tokens takes .* Use a text of at most 15 tokens"):
        check_attention_memory(model, 30, max_bytes=attention_bytes(model, 15))
    assert check_attention_memory(model, 15, max_bytes=attention_bytes(model, 15)) == attention_bytes(model, 15)


@pytest.mark.parametrize("encoder", [0, 2])
def test_what_a_look_keeps_is_what_was_said(encoder):
    tokenizer = Tokenizer.load(demo_folder())
    shape = ModelConfig(tokenizer.vocab_size, 48, 24, depth=3, heads=2, key_value_heads=2, encoder_depth=encoder)
    model = Transformer(shape).eval()
    found = Inspection(model, tokenizer, [1] * 9, [2] * 7 if encoder else None)
    maps = [x for name, x in found.activations.items() if name.endswith((".scores", ".weights"))]
    kept = sum(torch.as_tensor(x).numel() * 4 for x in maps)
    copies = 4 * 2 * 32 * 9**2
    assert attention_bytes(model, 9, 7 if encoder else 0) == kept + copies
