"""Beam search beside transformers, contrastive search beside a plain reference, speculation beside sampling."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from labkit.decoding import (
    Filter,
    History,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    beam_search,
    contrastive_search,
    filter_logits,
    generate,
    speculative_decode,
)
from labkit.decoding.generate import sample_by_inverse_cdf
from labkit.errors import LabError
from labkit.hub import from_pretrained, save_pretrained
from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.positions import NoPosition
from labkit.model.rwkv import RWKV

V, END = 19, 3
PROMPT = [5, 7, 1]


def build(seed: int = 0, noise: float = 0.35, **shape: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2, "key_value_heads": 1, "feed_forward": Gated(32)}
    model = Transformer(ModelConfig(V, 48, **sizes | shape)).eval()
    for parameter in model.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Transformer, Any]:
    """One model, here and in transformers."""
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(model := build(), folder)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("beams", [2, 4, 8])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_are_transformers(pair, beams, length_penalty, early_stopping):
    model, published = pair
    settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 12, "do_sample": False}
    settings |= {"length_penalty": length_penalty, "early_stopping": early_stopping}
    settings |= {"eos_token_id": END, "pad_token_id": 0, "return_dict_in_generate": True, "output_scores": True}
    for prompt in (PROMPT, [2, 2], [11, 4, 9, 13]):
        expected = published.generate(torch.tensor([prompt]), **settings)
        ours = {"beams": beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
        found = beam_search(model, prompt, max_new_tokens=12, stop_ids=[END], **ours).hypotheses
        assert [beam.score for beam in found] == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4)
        for beam, row in zip(found, expected.sequences[:, len(prompt) :].tolist(), strict=True):
            assert beam.tokens == row[: row.index(END) if END in row else 12]


def test_one_beam_that_ends_with_the_first_text_is_greedy():
    model = build()
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], max_new_tokens=12, stop_ids=[END])[0]
    found = beam_search(model, PROMPT, beams=1, max_new_tokens=12, stop_ids=[END], early_stopping=True).hypotheses
    assert [beam.tokens for beam in found] == [greedy]


def test_enough_beams_find_the_best_text_of_all():
    """Three tokens of a vocabulary of 19: with every prefix a beam, the best of all 6,859 texts."""
    model = build()
    texts = torch.cartesian_prod(*[torch.arange(V)] * 3)
    with torch.no_grad():
        rows = torch.cat((torch.tensor([PROMPT]).expand(len(texts), -1), texts), 1)
        logprobs = model(rows)[:, 2:5].log_softmax(-1).gather(-1, texts.unsqueeze(-1)).sum((1, 2))
    found = beam_search(model, PROMPT, beams=V * V, max_new_tokens=3).hypotheses
    assert found[0].tokens == texts[logprobs.argmax()].tolist()
    assert found[0].cumulative_logprob == pytest.approx(float(logprobs.max()), abs=1e-4)
    assert [beam.cumulative_logprob for beam in found[:50]] == pytest.approx(
        logprobs.topk(50).values.tolist(), abs=1e-3
    )


def test_the_tree_holds_every_step_that_was_weighed():
    found, tree = beam_search(build(), PROMPT, beams=3, max_new_tokens=6, stop_ids=[END])
    for beam in found:
        ends = [
            i
            for i, node in enumerate(tree)
            if node.outcome == "ended" and node.cumulative_logprob == beam.cumulative_logprob
        ]
        path, at = [], ends[0]
        while at >= 0:
            path.append(tree[at].token)
            at = tree[at].parent
        path = path[::-1]
        assert (path[:-1] if beam.ended else path) == beam.tokens
    for step in range(max(node.step for node in tree)):
        fates = [node.outcome for node in tree if node.step == step]
        assert fates.count("kept") == 3 and "pruned" in fates


def test_diverse_groups_part_at_once_and_without_diversity_are_alike():
    """By the paper's algorithm, written out: each group ranks by log-probability less what earlier groups took."""
    model = build()
    alike = beam_search(model, PROMPT, beams=3, groups=3, max_new_tokens=5).hypotheses
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], max_new_tokens=5)[0]
    assert [beam.tokens for beam in alike] == [greedy] * 3
    groups: list[list[int]] = [[], [], []]
    with torch.no_grad():
        for _ in range(5):
            taken = torch.zeros(V)
            for group in groups:
                logprobs = model(torch.tensor([PROMPT + group]))[0, -1].log_softmax(-1)
                group.append(int((logprobs - 2.0 * taken).argmax()))
                taken[group[-1]] += 1
    diverse = beam_search(model, PROMPT, beams=3, groups=3, diversity=2.0, max_new_tokens=5).hypotheses
    assert sorted(beam.tokens for beam in diverse) == sorted(groups)
    assert len({beam.tokens[0] for beam in diverse}) == 3


def test_a_group_that_can_only_end_leaves_the_others_in_their_rows():
    """Where greedy is all that is left, the first group ends with its text while the second, held apart, goes on."""
    model = build()
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], max_new_tokens=8)[0]
    options: dict[str, Any] = {"max_new_tokens": 8, "stop_ids": [greedy[2]]}
    alone = beam_search(model, PROMPT, beams=1, filters=[Temperature(0)], **options).hypotheses
    both = beam_search(model, PROMPT, beams=2, groups=2, filters=[Temperature(0)], **options).hypotheses
    assert [beam.tokens for beam in both] == [alone[0].tokens] * 2 == [greedy[: greedy.index(greedy[2])]] * 2
    apart = beam_search(model, PROMPT, beams=2, groups=2, diversity=1.0, filters=[TopK(2)], **options).hypotheses
    assert len(apart) == 2 and apart[0].tokens != apart[1].tokens


def test_an_encoder_decoder_is_searched_too(tmp_path):
    sizes: dict[str, Any] = {"d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    sizes |= {"vocab_size": V, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": END}
    config = transformers.T5Config(**sizes)
    torch.manual_seed(0)
    published: Any = transformers.T5ForConditionalGeneration(config).eval()
    for parameter in published.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    published.save_pretrained(tmp_path)
    model, source = from_pretrained(tmp_path).cpu(), torch.tensor([[4, 9, 2, 8]])
    expected = published.generate(source, num_beams=3, max_new_tokens=8, do_sample=False)[0, 1:].tolist()
    best = beam_search(model, [0], beams=3, max_new_tokens=8, stop_ids=[END], memory=model.encode(source)).hypotheses[0]
    assert best.tokens == (expected[: expected.index(END)] if END in expected else expected)


@torch.no_grad()
def test_contrastive_search_is_its_formula():
    """Every candidate read anew with the whole text before it; no state anywhere."""
    model = build()
    for k, alpha in itertools.product((1, 3, 6), (0.0, 0.4, 0.9)):
        text = list(PROMPT)
        for _ in range(9):
            hidden = model.hidden_states(torch.tensor([text]))[0]
            shares, tokens = model.logits(hidden[-1]).softmax(-1).topk(k)
            scores = []
            for share, token in zip(shares, tokens.tolist(), strict=True):
                new = model.hidden_states(torch.tensor([[*text, token]]))[0, -1]
                alike = max(float(F.cosine_similarity(new, old, dim=0)) for old in hidden)
                scores.append((1 - alpha) * float(share) - alpha * alike)
            text.append(int(tokens[max(range(k), key=scores.__getitem__)]))
        assert contrastive_search(model, PROMPT, k=k, alpha=alpha, max_new_tokens=9) == text[3:]
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], max_new_tokens=9)[0]
    assert contrastive_search(model, PROMPT, k=5, alpha=0.0, max_new_tokens=9) == greedy
    cut = contrastive_search(model, PROMPT, k=5, alpha=0.0, max_new_tokens=9, stop_ids=[greedy[4]])
    assert cut == greedy[: greedy.index(greedy[4])]


@pytest.mark.parametrize("ahead", [1, 3, 6])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.35])
def test_greedy_speculation_writes_the_greedy_text(ahead, noise):
    """With the model itself as its draft, one a little off, and one that guesses wrongly."""
    model, draft = build(), build()
    torch.manual_seed(1)
    for parameter in draft.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], max_new_tokens=20)[0]
    found = speculative_decode(model, draft, PROMPT, ahead=ahead, filters=[Temperature(0)], max_new_tokens=20)
    assert found.tokens == greedy and 0 <= found.accepted <= found.drafted
    if noise == 0:
        assert found.accepted == found.drafted and found.target_forward_passes == -(-20 // (ahead + 1))
    options: dict[str, Any] = {"filters": [Temperature(0)], "max_new_tokens": 20, "stop_ids": [greedy[5]]}
    ended = speculative_decode(model, draft, PROMPT, ahead=ahead, **options)
    assert ended.tokens == greedy[: greedy.index(greedy[5])]


def chi_squared(counts: torch.Tensor, shares: torch.Tensor) -> float:
    """How far counts are from what is expected, in standard deviations of chi-squared; what is rare goes together."""
    expected = shares * counts.sum()
    common = expected >= 5
    counts = torch.cat((counts[common], counts[~common].sum().unsqueeze(0))).double()
    expected = torch.cat((expected[common], expected[~common].sum().unsqueeze(0))).double()
    assert not counts[expected == 0].any()
    counts, expected = counts[expected > 0], expected[expected > 0]
    degrees = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum() - degrees) / (2 * max(degrees, 1)) ** 0.5


STEPS: list[Filter] = [Temperature(1.3), TopK(9), TopP(0.95)]


@torch.no_grad()
def exact_pairs(model: Transformer) -> torch.Tensor:
    """The probability of each two tokens after the prompt, under the filters: [V * V]."""
    first = filter_logits(STEPS, model(torch.tensor([PROMPT]))[:, -1]).softmax(-1)[0]
    rows = torch.cat((torch.tensor([PROMPT]).expand(V, -1), torch.arange(V).unsqueeze(1)), 1)
    second = filter_logits(STEPS, model(rows)[:, -1]).softmax(-1)
    return (first.unsqueeze(1) * second).flatten()


def test_samples_follow_the_filtered_distribution():
    model = build(noise=0.15)
    written = generate(
        model,
        [PROMPT],
        filters=STEPS,
        max_new_tokens=2,
        num_return_sequences=4000,
        batch_size=4000,
        generator=torch.Generator().manual_seed(0),
    )
    counts = torch.bincount(torch.tensor([a * V + b for a, b in written]), minlength=V * V)
    assert chi_squared(counts, exact_pairs(model)) < 4


def test_speculation_follows_the_same_distribution():
    model, draft, generator = build(noise=0.15), build(seed=1, noise=0.15), torch.Generator().manual_seed(0)
    counts = torch.zeros(V * V, dtype=torch.int64)
    kept = 0
    for _ in range(1500):
        found = speculative_decode(model, draft, PROMPT, ahead=2, filters=STEPS, max_new_tokens=2, generator=generator)
        counts[found.tokens[0] * V + found.tokens[1]] += 1
        kept += found.accepted
    assert chi_squared(counts, exact_pairs(model)) < 4 and 0 < kept < 1500  # some guesses are taken, some are not


def test_filters_that_look_back_see_each_row_by_itself():
    model, prompts = build(), [[5], PROMPT, [2, 2, 2, 2, 2, 2]]
    steps: list[Filter] = [RepetitionPenalty(1.4), NoRepeatNgram(2), Temperature(0.8)]
    generator = torch.Generator().manual_seed(3)
    together = generate(model, prompts, filters=steps, max_new_tokens=15, generator=generator)
    draws = torch.rand(3, 1, 15, generator=torch.Generator().manual_seed(3))
    for prompt, draw_, written in zip(prompts, draws, together, strict=True):
        text = list(prompt)
        for u in draw_[0]:
            with torch.no_grad():
                logits = model(torch.tensor([text]))[:, -1]
            logits = filter_logits(steps, logits, History(torch.tensor([text]), len(prompt)))
            text.append(int(sample_by_inverse_cdf(logits, u.unsqueeze(0))))
        assert text[len(prompt) :] == written


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda m: beam_search(m, PROMPT, beams=0, max_new_tokens=3), "at least one beam, not 0"),
        (
            lambda m: beam_search(m, PROMPT, beams=4, groups=3, max_new_tokens=3),
            "4 beams cannot be split into 3 groups",
        ),
        (lambda m: beam_search(m, PROMPT, beams=4, diversity=-1.0, max_new_tokens=3), "0 to 1,000,000 nats, not -1"),
        (lambda m: beam_search(m, PROMPT, beams=2, max_new_tokens=0), "from 1 to 1,048,576, not 0"),
        (lambda m: beam_search(m, [], beams=2, max_new_tokens=3), "prompt is empty"),
        (lambda m: beam_search(m, [1] * 48, beams=2, max_new_tokens=3), "no room for new tokens in a context of 48"),
        (lambda m: contrastive_search(m, PROMPT, k=0, alpha=0.5, max_new_tokens=3), "k of at least 1"),
        (lambda m: contrastive_search(m, PROMPT, k=4, alpha=2.0, max_new_tokens=3), "alpha from 0 to 1"),
        (lambda m: speculative_decode(m, m, PROMPT, ahead=0, max_new_tokens=3), "at least one token at a time"),
        (
            lambda m: speculative_decode(m, m, PROMPT, filters=[NoRepeatNgram(2)], max_new_tokens=3),
            "cannot use filters that need",
        ),
        (lambda m: speculative_decode(m, Transformer(ModelConfig(7)), PROMPT, max_new_tokens=3), "vocabulary of 7"),
    ],
)
def test_what_makes_no_sense_is_said_in_words(call, message):
    with pytest.raises(LabError, match=message):
        call(build())


def test_what_a_model_cannot_do_is_said_in_words():
    mixed = build(mixer=RWKV((2, 2, 2, 2)), position=NoPosition(), key_value_heads=2)
    with pytest.raises(LabError, match="no token can be removed"):
        speculative_decode(mixed, mixed, PROMPT, max_new_tokens=6)
    assert len(beam_search(mixed, PROMPT, beams=2, max_new_tokens=4).hypotheses) == 2
    assert len(contrastive_search(mixed, PROMPT, k=3, alpha=0.5, max_new_tokens=4)) == 4
    with pytest.raises(LabError, match="cannot generate text"):
        beam_search(build(causal=False), PROMPT, beams=2, max_new_tokens=3)
