"""Strategies as lines of text, their scores by hand, and the command that compares them."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.commands.main import main
from labkit.decoding import (
    Banned,
    MinP,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    beam_search,
    best_of_n,
    generate,
)
from labkit.decoding.best import best_of_n_steps
from labkit.decoding.scores import (
    distinct_ngram_share,
    jackknife_estimate,
    mean_logprob,
    mean_logprobs,
    mean_score,
    repeated_ngram_share,
    self_bleu,
)
from labkit.decoding.stops import StopStrings
from labkit.decoding.strategies import FILTERS, INTEGER_OPTIONS, DecodingResources, parse_strategy
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer
from labkit.paths import demo_folder

PROMPT = [5, 7, 1]


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(19, 48, 24, 2, 2, 1, feed_forward=Gated(32))).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_a_line_is_filters_in_their_order():
    line = "repetition=1.2 temperature=0.8 no-repeat=3 top-k=40 top-p=0.9 min-p=0.05"
    assert parse_strategy(line).logits_filters() == [
        RepetitionPenalty(1.2), Temperature(0.8), NoRepeatNgram(3), TopK(40), TopP(0.9), MinP(0.05)
    ]  # fmt: skip
    assert str(parse_strategy("temperature=0.123456789 top-p=0.80")) == "temperature=0.123456789 top-p=0.8"
    assert parse_strategy("top-k=5 temperature=2").logits_filters() == [TopK(5), Temperature(2.0)]
    assert (
        parse_strategy("greedy").logits_filters() == [Temperature(0)]
        and parse_strategy("").logits_filters() == [] == parse_strategy("sample").logits_filters()
    )
    assert [parse_strategy(line).is_random for line in ("", "temperature=0", "greedy", "beam", "contrastive")] == [
        True
    ] + [False] * 4


@given(st.lists(st.sampled_from(sorted(FILTERS)), unique=True), st.sampled_from(["sample", "greedy", "beam beams=3"]))
def test_a_line_comes_back(names, kind):
    line = " ".join([kind, *(f"{name}={3 if name in INTEGER_OPTIONS else 0.25}" for name in names)])
    assert parse_strategy(str(parse_strategy(line))) == parse_strategy(line)


def test_each_kind_writes_what_its_function_does(model):
    options: dict[str, Any] = {"max_new_tokens": 8, "stop_ids": [3]}
    two = parse_strategy("temperature=0.9 top-k=6").generate(model, PROMPT, seeds=[4, 9], **options)
    for seed, text in zip((4, 9), two, strict=True):
        generator = torch.Generator().manual_seed(seed)
        assert text == generate(model, [PROMPT], filters=[Temperature(0.9), TopK(6)], generator=generator, **options)[0]
    greedy = generate(model, [PROMPT], filters=[Temperature(0)], **options)[0]
    assert parse_strategy("greedy").generate(model, PROMPT, seeds=[0, 1], **options) == [greedy, greedy]
    assert parse_strategy("contrastive k=4 alpha=0").generate(model, PROMPT, **options) == [greedy]
    best = beam_search(model, PROMPT, beams=3, length_penalty=0.5, filters=[NoRepeatNgram(2)], **options).hypotheses[0]
    assert parse_strategy("beam beams=3 length-penalty=0.5 no-repeat=2").generate(model, PROMPT, **options) == [
        best.tokens
    ]
    banned = parse_strategy("greedy ban=#5,#9")
    assert banned.generate(model, PROMPT, **options) == generate(
        model, [PROMPT], filters=[Banned((5, 9)), Temperature(0)], **options
    )
    allowed = parse_strategy("temperature=1 allow=#5,#9").generate(model, PROMPT, seeds=range(5), **options)
    assert {token for text in allowed for token in text} == {5, 9}


def test_many_prompts_at_once_are_each_by_itself(model):
    """And every strategy, streamed, ends with what it writes."""
    prompts: list[list[int]] = [[5, 7, 1], [2], [9, 9, 4, 6]]
    resources = DecodingResources(draft=model, judge=lambda prompts, answers: [sum(answer) for answer in answers])
    options: dict[str, Any] = {"max_new_tokens": 9, "stop_ids": [3], "resources": resources}
    for line in ["greedy", "temperature=1.3", "beam beams=3", "contrastive", "best n=3 temperature=2", "speculative"]:
        strategy = parse_strategy(line)
        seeds = [[1, 2], [3, 4], [1, 5]]
        together = strategy.generate_batch(model, prompts, seeds=seeds, **options)
        assert together == [
            strategy.generate(model, prompt, seeds=own, **options) for prompt, own in zip(prompts, seeds, strict=True)
        ]
        assert [
            list(strategy.stream_partial_outputs(model, prompts[0], seed=seed, **options))[-1] for seed in (1, 2)
        ] == together[0]


def test_the_best_of_n_is_the_judges(model):
    """The largest sum of tokens, by hand; the first of the n is the plain sample of the same seed."""

    def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        return [float(sum(answer)) for answer in answers]

    found = best_of_n(model, PROMPT, judge, n=5, max_new_tokens=6, generator=torch.Generator().manual_seed(7))
    assert found.scores == [sum(answer) for answer in found.answers] and found.scores[found.best_index] == max(
        found.scores
    )
    again = torch.Generator().manual_seed(7)
    stepwise = [*best_of_n_steps(model, PROMPT, judge, n=5, batch_size=2, max_new_tokens=6, generator=again)]
    assert stepwise == [None, None, None, found]  # two, two and one, of the same random numbers
    assert found.answers[0] == parse_strategy("").generate(model, PROMPT, max_new_tokens=6, seeds=[7])[0]
    resources = DecodingResources(judge=judge)
    assert parse_strategy("best n=5").generate(model, PROMPT, max_new_tokens=6, seeds=[7], resources=resources)[
        0
    ] == max(found.answers, key=sum)
    with pytest.raises(LabError, match="something must score"):
        parse_strategy("best").generate(model, PROMPT, max_new_tokens=6)


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(97 + token) for token in ids)


@pytest.mark.parametrize(
    "line", ["greedy", "temperature=1.3", "beam beams=3", "contrastive", "speculative", "best n=1"]
)
def test_a_stop_text_ends_every_strategy(model, line):
    """Tokens stand for letters; the text ends before the two that it would have had in fourth and fifth place."""
    resources = DecodingResources(draft=model, judge=lambda prompts, answers: [0.0 for _ in answers])
    options: dict[str, Any] = {"max_new_tokens": 12, "seeds": [5]}
    free = letters(parse_strategy(line).generate(model, PROMPT, resources=resources, **options)[0])
    stop = free[3:5]
    tokenizer: Any = SimpleNamespace(decode=letters)
    stopping = replace(resources, tokenizer=tokenizer, stop=[stop])
    [text] = parse_strategy(line).generate(model, PROMPT, resources=stopping, **options)
    assert stop not in letters(text)
    if not line.startswith("beam"):  # whose best text is another when some end early
        assert letters(text) == free[: free.index(stop)]
    assert (
        list(parse_strategy(line).stream_partial_outputs(model, PROMPT, resources=stopping, max_new_tokens=12, seed=5))[
            -1
        ]
        == text
    )


def test_a_stop_text_across_tokens_is_cut():
    pieces = ["ab", "c", "de", "f"]
    stops = StopStrings(lambda ids: "".join(pieces[i] for i in ids), ["cd"])
    assert stops.ends_with_stop([0, 1, 2]) and not stops.ends_with_stop([0, 1]) and stops.ends_with_stop([0, 1, 2, 3])
    assert stops.cut_at_stop([0, 1, 2, 3]) == [0] and stops.cut_at_stop([0, 1]) == [0, 1]
    assert StopStrings(stops.decode, ["b"]).cut_at_stop([0, 1]) == []  # its token holds what stands before it too
    with pytest.raises(LabError, match="at least one character"):
        StopStrings(stops.decode, [""])


@pytest.mark.parametrize(
    "line,message",
    [
        ("beem beams=3", "no strategy 'beem'. Did you mean beam. There are sample, greedy, beam, contrastive, spec"),
        ("beam beans=3", "beam: unknown setting 'beans'. Did you mean beams. The settings are beams, length-penalty"),
        ("temperature", "temperature needs a value, written temperature=VALUE"),
        ("beam groups", "beam: groups needs a value, written groups=VALUE"),
        ("beam beams=2 beams=3", "beam: beams is given twice"),
        ("tempratur=0.8", "sample: unknown setting 'tempratur'. Did you mean temperature."),
        ("presence=nan", "sample: presence must be at least -10,000.*, not nan"),
        ("frequency=1e400", "sample: frequency must be .* at most 10,000, not inf"),
        ("ban=#3,#4 allow=#3,#4", "allow leaves no token to sample, after ban. Remove it"),
        ("top-k=4.5", "top-k must be a whole number, not '4.5'"),
        ("top-p=high", "top-p must be a number, not 'high'"),
        ("top-p=0", "sample: top-p must be above 0 and at most 1, not 0"),
        ("temperature=-1", "sample: temperature must be at least 0.*, not -1"),
        ("beam early-stopping=soon", "true, false or never, not 'soon'"),
        ("contrastive top-k=3", "takes no filters"),
        ("ban=,", "ban must be words separated by commas, not ','"),
        ("ban=exoplanetary", "'exoplanetary' is not a single token but"),
        ("allow=#99999", "no token 99999 in a vocabulary of"),
        ("best n=0", "an n of at least 1, not 0"),
        ("speculative ahead=3", "a smaller draft model is needed"),
    ],
)
def test_what_is_no_strategy_is_said_in_words(line, message, capsys):
    assert main(["generate", str(demo_folder()), "--strategy", line, "--max-tokens", "4"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_two_ways_to_say_the_filters_are_refused(capsys):
    assert main(["generate", str(demo_folder()), "--temperature", "0.5", "--strategy", "top-p=0.9"]) == 2
    assert "--strategy replaces --temperature" in capsys.readouterr().err
    assert main(["generate", str(demo_folder()), "--chat"]) == 2
    assert "nothing to reply to" in capsys.readouterr().err


def test_intervals_by_hand():
    """Of 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, so the half width is 1.96 √(7/3). The jackknife of a mean is
    the same; of what is the same without each text, 0.
    """
    assert mean_score([1, 2, 6, math.nan]) == pytest.approx((3, 1.96 * (7 / 3) ** 0.5))
    assert mean_score([2]) == (2, 0) and math.isnan(mean_score([]).value)
    texts = [[1], [1, 1], [1] * 6]
    of_means = jackknife_estimate(lambda some: sum(map(len, some)) / len(some), texts)
    assert of_means == pytest.approx(mean_score([1, 2, 6]))
    assert jackknife_estimate(lambda some: 4.0, texts) == (4, 0)


def test_scores_by_hand(model):
    """1 2 1 2 1 has the pairs 12 21 12 21: two of four came before. With 1 2 3 it is six, three of them different."""
    assert repeated_ngram_share([1, 2, 1, 2, 1], n=2) == 0.5 and repeated_ngram_share([1, 2], n=4) == 0.0
    assert distinct_ngram_share([[1, 2, 1, 2, 1], [1, 2, 3]], n=2) == 3 / 6 and distinct_ngram_share([[1]], n=2) == 0.0
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1.0) and math.isnan(self_bleu([[1, 2]]))
    # One token of three and none of two pairs (half a run): each way √(1/3 · 0.5/2), and the lengths are equal.
    assert self_bleu([[1, 2, 3], [1, 5, 6]], n=2) == pytest.approx((1 / 3 * 0.25) ** 0.5)
    # 1 2 against 1 2 3 4: both tokens and the pair are there, but it is half as long: e^(1 - 4/2).
    there, back = math.exp(-1), (2 / 4 * 1 / 3) ** 0.5
    assert self_bleu([[1, 2], [1, 2, 3, 4]], n=2) == pytest.approx((there + back) / 2)
    with torch.no_grad():
        logprobs = model(torch.tensor([[*PROMPT, 4, 2]]))[0].log_softmax(-1)
    assert mean_logprob(model, PROMPT, [4, 2]) == pytest.approx(float(logprobs[2, 4] + logprobs[3, 2]) / 2, abs=1e-5)
    assert math.isnan(mean_logprob(model, PROMPT, []))
    texts = [[4, 2], [], [7, 7, 7, 1, 2]]
    alone = [mean_logprob(model, PROMPT, text) for text in texts]
    assert mean_logprobs(model, PROMPT, texts) == pytest.approx(alone, abs=1e-5, nan_ok=True)


def test_strategies_side_by_side(capsys):
    lines = ["greedy", "temperature=1.5", "beam beams=2"]
    command = ["decode-compare", str(demo_folder()), "--samples", "3", "--max-tokens", "20", "--strategies", *lines]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in lines) and "±" in shown and "self-BLEU" in shown
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["strategies"]
    assert found[0]["first_different_word_index"] is None and found[1]["first_different_word_index"] >= 0
    scores = [one["scores"] for one in found]
    assert scores[1]["tokens"]["half_width"] >= 0 and scores[0]["tokens"]["half_width"] == 0
    assert scores[2]["nats per token"]["mean"] > scores[1]["nats per token"]["mean"]
    assert {"gold", "right", "supported", "grammatical", "consistent"} <= scores[0].keys()
    assert main([*command[:-1], "beam beams=0"]) == 2
    assert "at least one beam, not 0" in capsys.readouterr().err
    assert (
        main(["generate", str(demo_folder()), "--prompt", "One day", "--strategy", "beam beams=2", "--max-tokens", "9"])
        == 0
    )
    assert capsys.readouterr().out.startswith("One day")
