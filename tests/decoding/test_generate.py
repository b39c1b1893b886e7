"""Batched generation against the plainest loop, and where it stops."""

from typing import Any

import pytest
import torch

from labkit.decoding import Temperature, TopK, beam_search, generate
from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.decoding.strategies import parse_strategy
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer

PROMPTS = [[5, 6, 7, 8, 9, 10], [1], [2, 3, 4], [11, 12], [7, 7, 7, 7]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(
            vocabulary=29,
            context=24,
            width=32,
            depth=2,
            heads=2,
            key_value_heads=1,
            feed_forward=Gated(intermediate_size=32),
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


@torch.no_grad()
def by_hand(model, prompt, count):
    """Greedy, one row, no cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_greedy_equals_the_plain_loop(model, rows):
    written = generate(model, PROMPTS, filters=[Temperature(0)], max_new_tokens=10, batch_size=rows)
    assert written == [by_hand(model, prompt, 10) for prompt in PROMPTS]


def test_a_row_ends_before_its_stop_token(model):
    free = generate(model, PROMPTS, filters=[Temperature(0)], max_new_tokens=10)
    stop = free[0][4]
    written = generate(model, PROMPTS, filters=[Temperature(0)], max_new_tokens=10, stop_ids=[stop])
    assert written == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(written[0]) <= 4


def test_samples_depend_on_neither_batch_nor_neighbours(model):
    def sample(rows, stop_ids=()):
        generator = torch.Generator().manual_seed(3)
        return generate(model, PROMPTS, max_new_tokens=12, stop_ids=stop_ids, generator=generator, batch_size=rows)

    free = sample(64)
    assert sample(1) == sample(2) == free
    stops = [free[0][2], free[1][5], free[2][1]]  # rows leave the batch at different times
    ends = [min([row.index(s) for s in stops if s in row], default=12) for row in free]
    assert sample(64, stops) == [row[:end] for row, end in zip(free, ends, strict=True)]
    other = generate(model, PROMPTS, max_new_tokens=12, generator=torch.Generator().manual_seed(4))
    assert other != free


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_several_samples_of_a_prompt_are_those_of_the_prompt_repeated(model, rows):
    def sample(prompts, **options):
        generator = torch.Generator().manual_seed(5)
        return generate(
            model, prompts, max_new_tokens=9, stop_ids=[3, 4], generator=generator, batch_size=rows, **options
        )

    assert sample(PROMPTS, num_return_sequences=3) == sample([prompt for prompt in PROMPTS for _ in range(3)])


def test_a_row_ends_when_the_context_is_full(model):
    prompts = [[1] * 20, [2] * 3]
    written = generate(model, prompts, filters=[Temperature(0)], max_new_tokens=10)
    assert written == [by_hand(model, prompts[0], 4), by_hand(model, prompts[1], 10)]


def test_the_model_is_left_as_it_was(model):
    model.train()
    generate(model, [[1, 2]], max_new_tokens=2)
    assert model.training
    assert generate(model, [], max_new_tokens=2) == []
    with pytest.raises(LabError, match="from 1 to 1,048,576, not 0"):
        generate(model, [[1]], max_new_tokens=0)


def test_samples_follow_the_distribution(model):
    """4,000 first tokens after one prompt: each frequency within five deviations of its probability."""
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = TopK(5)(model(torch.tensor([[3, 4]]))[:, -1]).softmax(-1)[0]
    count = 4_000
    generator = torch.Generator().manual_seed(0)
    written = generate(
        model, [[3, 4]] * count, filters=[TopK(5)], max_new_tokens=1, generator=generator, batch_size=1000
    )
    found = torch.bincount(torch.tensor(written).flatten(), minlength=29) / count
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()


def test_draw_at_the_edges():
    """Probabilities 0, 1/2, 0, 1/2, 0: numbers from 0 up to 1/2 draw token 1, from there to 1 token 3."""
    logits = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log().expand(4, -1)
    u = torch.tensor([0.0, 0.49, 0.5, 1 - 2**-24])
    assert sample_by_inverse_cdf(logits, u).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "prompts,message",
    [([[1], []], "Prompt 1 is empty"), ([[1] * 24], "The prompt has 24 tokens and leaves no room")],
)
def test_prompts_that_cannot_be_continued_are_refused(model, prompts, message):
    with pytest.raises(LabError, match=message):
        generate(model, prompts, max_new_tokens=4)


def test_an_encoder_reads_a_source_for_each_prompt():
    """Of unequal lengths, together and one by one, and as beam search of one beam writes."""
    torch.manual_seed(0)
    shape = ModelConfig(23, 40, 24, 2, 2, 2, feed_forward=Gated(32), encoder_depth=2)
    model = Transformer(shape).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    sources, prompts = [[5, 6, 7, 8, 9], [4], [11, 12, 13]], [[1], [1, 2, 3], [1]]
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_ids": [2]}
    together = generate(model, prompts, encoder_prompts=sources, filters=[Temperature(0)], **options)
    for prompt, source, text in zip(prompts, sources, together, strict=True):
        assert generate(model, [prompt], encoder_prompts=[source], filters=[Temperature(0)], **options) == [text]
        memory = model.encode(torch.tensor([source]))
        assert beam_search(model, prompt, beams=1, memory=memory, **options).hypotheses[0].tokens == text
        for line in ("greedy", "contrastive k=3 alpha=0"):
            assert parse_strategy(line).generate(model, prompt, encoder_prompt=source, **options) == [text]
            assert (
                list(parse_strategy(line).stream_partial_outputs(model, prompt, encoder_prompt=source, **options))[-1]
                == text
            )
    twice = generate(
        model,
        prompts,
        encoder_prompts=sources,
        filters=[Temperature(0)],
        num_return_sequences=2,
        batch_size=2,
        **options,
    )
    assert twice == [text for text in together for _ in range(2)]
    other = generate(model, prompts, encoder_prompts=[[3, 3], *sources[1:]], filters=[Temperature(0)], **options)
    assert other[0] != together[0] and other[1:] == together[1:]
    with pytest.raises(LabError, match="has an encoder: give it a source"):
        generate(model, prompts, **options)
    with pytest.raises(LabError, match="has no encoder"):
        plain = Transformer(ModelConfig(23, 40, 24, 2, 2, 2))
        generate(plain, prompts, encoder_prompts=sources, **options)
