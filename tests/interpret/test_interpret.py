"""What a model attends to and where each number comes from; what a head causes; and that looking changes nothing."""

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.interpret import (
    AblateHeads,
    ActivationRecorder,
    CheckpointInspections,
    Inspection,
    accuracy_and_standard_error,
    activation_patching,
    answer_log_odds,
    find_heads,
    winograd_examples,
    world_coref_examples,
)
from labkit.interpret.inspection import kl_divergence
from labkit.interpret.taps import HeadRef
from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.positions import ALiBi, NoPosition, Shaw
from labkit.model.rwkv import RWKV
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.text.tokenizer import Tokenizer
from labkit.world import World


def small(tokenizer: Tokenizer, **changes) -> Transformer:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"width": 32, "depth": 3, "heads": 4, "key_value_heads": 2, "feed_forward": Gated(64)}
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, **shape | changes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Tom ran to the park because he was late."] * 4)


@pytest.fixture(scope="module")
def look(tokenizer) -> Inspection:
    return Inspection(small(tokenizer), tokenizer, tokenizer.encode("Tom ran to the park."))


@pytest.fixture(scope="module")
def demo() -> Run:
    return Run.open(demo_folder())


def test_every_row_is_a_distribution_over_the_tokens_so_far(look):
    (found,) = look.attention_maps
    T = len(look.ids)
    assert found.kind == "causal" and found.weights.shape == (3, 4, T, T)
    assert "".join(found.rows) == "Tom ran to the park." and found.rows == found.columns
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(3, 4, T))
    assert found.weights.triu(1).abs().max() == 0 and found.weights[:, :, 0, 0].eq(1).all()


@pytest.mark.parametrize("changes", [{}, {"position": ALiBi()}, {"position": Shaw(3)}, {"attention_scale": 1.0}])
def test_a_cell_is_the_softmax_of_its_row_by_hand(tokenizer, changes):
    """score = q·k · scale + position; weight = e^score / Σ e^score over the tokens up to this one."""
    read = Inspection(small(tokenizer, **changes), tokenizer, tokenizer.encode("Tom ran to the park."))
    cells = [read.score_breakdown(0, 1, 3, 3, column, top_n=4) for column in range(4)]
    for cell in cells:
        assert cell.score == pytest.approx(cell.dot * cell.scale + cell.position_bias, abs=1e-5)
        assert cell.head_dim == 8 and cell.scale == (1.0 if "attention_scale" in changes else pytest.approx(8**-0.5))
    total = sum(math.exp(cell.score) for cell in cells)
    for column, cell in enumerate(cells):
        assert cell.weight == pytest.approx(math.exp(cell.score) / total, abs=1e-5)
        assert cell.weight == pytest.approx(float(read.attention_maps[0].weights[1, 3, 3, column]), abs=1e-6)
    positions = [cell.position_bias for cell in cells]
    if changes.get("position") == ALiBi():  # the last of four heads loses 2^-8 for each token between
        assert positions == pytest.approx([-3 / 256, -2 / 256, -1 / 256, 0.0], abs=1e-5)
    elif "position" not in changes:
        assert positions == pytest.approx([0.0] * 4, abs=1e-5)
    assert [weight for *_, weight, _ in cells[0].top_keys] == sorted((c.weight for c in cells), reverse=True)


def test_ablating_nothing_changes_nothing_and_a_head_what_it_gives(look):
    model, ids = look.model, torch.tensor([look.ids])
    with torch.no_grad():
        plain = model(ids)
        assert plain.equal(model(ids, tap=ActivationRecorder("weights"))) and plain.equal(
            model(ids, tap=AblateHeads([None]))
        )
        head = HeadRef("blocks.1.attention", 2)
        out = model.blocks[1].get_submodule("mixer").out
        kept = out.weight.data.clone()
        out.weight.data[:, 16:24] = 0  # what reads the third head's 8 numbers
        expected = model(ids)
        out.weight.data = kept
        torch.testing.assert_close(model(ids, tap=AblateHeads([head])), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, plain, atol=1e-3)
        both = model(ids.expand(2, -1), tap=AblateHeads([head, None]))
        torch.testing.assert_close(both, torch.cat((expected, plain)), atol=1e-5, rtol=1e-5)
    change = look.ablate(0, 1, 2)
    after = expected[0, -1].log_softmax(-1)
    assert (
        change.kl_nats == pytest.approx(float(kl_divergence(plain[0, -1].log_softmax(-1), after)), abs=1e-5)
        and change.kl_nats > 0
    )
    shares = {text: after for text, _, after in change.top_tokens}
    best = int(plain[0, -1].argmax())
    assert shares[look.tokenizer.token_text(best)] == pytest.approx(float(after.exp()[best]), abs=1e-5)
    assert look.ablate(0, 1, 2, "mean").kl_nats != pytest.approx(change.kl_nats, abs=1e-4)


def test_the_mean_of_a_head_that_always_says_the_same_is_what_it_says():
    x = torch.arange(24.0).view(1, 2, 3, 4)
    same = x[:, :, :1].expand(-1, -1, 3, -1)
    ablate = AblateHeads([HeadRef("a", 1)], "mean")
    assert ablate("a.heads", same).equal(same) and ablate("b.heads", x).equal(x) and ablate("a.weights", x).equal(x)
    assert ablate("a.heads", x)[0, 1].tolist() == [x[0, 1].mean(0).tolist()] * 3 and ablate("a.heads", x)[0, 0].equal(
        x[0, 0]
    )


def test_all_heads_at_once_are_each_by_itself(look):
    effects = look.ablation_effects(0, "zero")
    assert effects.shape == (3, 4)
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        assert float(effects[layer, head]) == pytest.approx(look.ablate(0, layer, head).kl_nats, abs=1e-4)


def test_the_last_layer_of_the_lens_is_the_prediction(look):
    lens = look.logit_lens(top_n=2)
    T = len(look.ids)
    assert len(lens) == 4 and {len(layer) for layer in lens} == {T}
    with torch.no_grad():
        shares = look.model(torch.tensor([look.ids]))[0].softmax(-1)
    for place in range(T):
        text, share = lens[-1][place][0]
        assert share == pytest.approx(float(shares[place].max()), abs=1e-5)
        assert text == look.tokenizer.token_text(int(shares[place].argmax()))


def test_an_encoder_decoder_has_three_kinds_of_attention(tokenizer):
    model = small(tokenizer, encoder_depth=2)
    source, ids = tokenizer.encode("Tom ran to the park."), tokenizer.encode("he was late")
    read = Inspection(model, tokenizer, ids, source)
    assert [map_.kind for map_ in read.attention_maps] == ["bidirectional", "causal", "cross"]
    S, T = len(source), len(ids)
    assert [tuple(map_.weights.shape) for map_ in read.attention_maps] == [(2, 4, S, S), (3, 4, T, T), (3, 4, T, S)]
    for map_ in read.attention_maps:
        torch.testing.assert_close(map_.weights.sum(-1), torch.ones(map_.weights.shape[:-1]))
    assert read.attention_maps[0].weights[..., 0, 1:].min() > 0  # tokens see later ones
    for map_ in range(3):
        assert read.ablate(map_, 1, 1).kl_nats > 0 and read.score_breakdown(map_, 1, 1, 1, 0).weight > 0
    assert len(read.logit_lens()) == 4 and read.attention_maps[2].columns == read.token_texts(source)


def test_an_encoder_looks_both_ways(tokenizer):
    read = Inspection(small(tokenizer, causal=False), tokenizer, tokenizer.encode("Tom ran."))
    assert [map_.kind for map_ in read.attention_maps] == ["bidirectional"] and read.attention_maps[0].weights.min() > 0


def test_the_viewer_gets_what_each_token_sees_in_the_order_of_the_weights(look, tokenizer):
    """Of causal attention rows of 1, 2, … T numbers one after the other; of an encoder whole rows; to 1/65535."""
    (data,) = look.attention_viewer_data()["maps"]
    T = len(look.ids)
    read = torch.from_numpy(np.frombuffer(base64.b64decode(data["weights"]), "<u2").astype("float32")) / 65535
    rows = iter(read.split([i + 1 for _ in range(12) for i in range(T)]))
    for layer in range(3):
        for head in range(4):
            for i in range(T):
                expected = look.attention_maps[0].weights[layer, head, i, : i + 1]
                torch.testing.assert_close(next(rows), expected, atol=0.5 / 65535 + 1e-7, rtol=0)
    assert data["key_value_heads"] == 2 and next(rows, None) is None
    (both_ways,) = Inspection(small(tokenizer, causal=False), tokenizer, [5, 6, 7]).attention_viewer_data()["maps"]
    assert len(base64.b64decode(both_ways["weights"])) == 2 * 12 * 9


def test_a_head_s_effect_is_measured_after_the_token_that_is_chosen(look):
    """The prediction after a token does not know what comes later: of a shorter text it is the same."""
    shorter = Inspection(look.model, look.tokenizer, look.ids[:4])
    assert look.ablate(0, 1, 2, prediction_position=3).kl_nats == pytest.approx(
        shorter.ablate(0, 1, 2).kl_nats, abs=1e-5
    )
    torch.testing.assert_close(
        look.ablation_effects(0, prediction_position=3), shorter.ablation_effects(0), atol=1e-5, rtol=1e-4
    )
    assert look.ablate(0, 1, 2, prediction_position=3).kl_nats != pytest.approx(look.ablate(0, 1, 2).kl_nats, abs=1e-4)
    for place in (-1, len(look.ids)):
        with pytest.raises(LabError, match=f"no token {place} in this text"):
            look.ablation_effects(0, prediction_position=place)
    for some, whole in zip(look.logit_lens(last_tokens=2), look.logit_lens(), strict=True):
        assert [[text for text, _ in token] for token in some] == [[text for text, _ in token] for token in whole[-2:]]
    with pytest.raises(LabError, match="Token 1 cannot attend to token 3"):
        look.score_breakdown(0, 1, 2, 1, 3)


def test_texts_that_cannot_be_looked_at(look, tokenizer):
    for ids in ([], [5] * 33):
        with pytest.raises(LabError, match=f"The text has {len(ids)} tokens; give 1 to 32"):
            Inspection(look.model, tokenizer, ids)
    mixed = small(tokenizer, mixer=RWKV((2, 2, 2, 2)), position=NoPosition(), key_value_heads=4)
    with pytest.raises(LabError, match="no attention: its mixer is RWKV"):
        Inspection(mixed, tokenizer, [5])
    for refused in (activation_patching, find_heads):
        with pytest.raises(LabError, match="a decoder-only attention model"):
            refused(mixed, *(([5], [6]) if refused is activation_patching else (tokenizer, [])))
    model = look.model.train()
    Inspection(model, tokenizer, [5])
    assert model.training
    model.eval()


def test_what_a_viewer_asks(look, tokenizer):
    views = CheckpointInspections(["one", "two"], lambda name: look)
    assert (
        views.attention_viewer_data("two")["stages"] == ["one", "two"]
        and views.attention_viewer_data("two")["stage"] == "two"
    )
    here: dict[str, Any] = {"stage": "one", "map": 0, "layer": 1, "head": 2}
    assert views.handle_request({"what": "view", "stage": "two"})["maps"] == look.attention_viewer_data()["maps"]
    assert views.handle_request({**here, "what": "without", "kind": "zero"})["kl_nats"] == look.ablate(0, 1, 2).kl_nats
    cell = views.handle_request({**here, "what": "cell", "row": 3, "column": 1})
    assert cell == look.score_breakdown(0, 1, 2, 3, 1)._asdict()
    assert len(views.handle_request({"what": "lens", "stage": "one"})["lens"]) == 4
    assert len(views.handle_request({**here, "what": "effects", "kind": "mean"})["effects"]) == 3
    after = views.handle_request({**here, "what": "without", "kind": "zero", "place": 2})
    assert after["kl_nats"] == look.ablate(0, 1, 2, prediction_position=2).kl_nats
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"stage": "three"}, "no checkpoint 'three'"),
        ({"what": "all"}, "view, cell, without, effects or lens"),
        ({"layer": 3}, "no head 2 in layer 3"),
        ({"map": 1}, "no attention map 1"),
        ({"kind": "none"}, "by zero or mean"),
        ({"what": "cell", "row": 99, "column": 0}, "no pair of tokens"),
        ({"layer": "x"}, "not a request"),
        ({"layer": float("inf")}, "not a request"),
        ({"place": 99}, "no token 99"),
        ({"place": []}, "not a request"),
        ({"kind": ["zero"]}, "by zero or mean"),
        ({"what": "effects", "map": 7}, "no attention map 7"),
        ({"stage": "\ud83d"}, "no checkpoint"),
        ({"what": "cell"}, "not a request"),
    ]
    for changes, message in wrong:
        assert message in views.handle_request({**here, "what": "without", "kind": "zero"} | changes)["error"]
    with pytest.raises(LabError, match="at least one checkpoint"):
        CheckpointInspections([], lambda name: look)


def test_patching_all_of_a_text_brings_all_of_it_back(demo):
    """All of it is in the words that differ before the first block, and in the last token after the last."""
    model, tokenizer = demo.model("sft"), demo.tokenizer()
    first, second = (tokenizer.encode(f" Tom had a {colour} ball. The ball was") for colour in ("red", "blue"))
    (differs,) = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    found = activation_patching(model, first, second)
    torch.testing.assert_close(found.residual_recovered[0, differs], torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.residual_recovered[-1, -1], torch.tensor(1.0), atol=1e-3, rtol=0)
    assert found.residual_recovered[:, :differs].abs().max() < 1e-4  # before it both texts are the same
    assert found.residual_recovered[-1, :-1].abs().max() < 1e-4  # after the last block no other token is looked at
    assert found.heads_recovered.shape == (4, 2) and found.clean_log_odds > found.corrupted_log_odds
    done: list[tuple[int, int]] = []
    activation_patching(model, first, second, progress=lambda *at: done.append(at))
    readings = 1 + 3 * (len(first) - differs) + 8  # one word differs; before it nothing can, and 8 heads
    assert done == [(readings, readings)]
    with pytest.raises(LabError, match="The texts have 3 and 2 tokens"):
        activation_patching(model, [1, 2, 3], [1, 2])
    with pytest.raises(LabError, match="same prediction"):
        activation_patching(model, first, first)


def test_the_examples_know_whom_it_stands_for(demo):
    tokenizer = demo.tokenizer()
    for examples in (world_coref_examples(World.load("lab"), tokenizer, 12), winograd_examples(tokenizer, 24)):
        for example in examples:
            assert (
                tokenizer.token_text(example.ids[example.pronoun_index]) == " it"
                and example.right_answer_ids != example.wrong_answer_ids
            )
            says = tokenizer.decode(example.right_answer_ids).split()[-1]
            assert says.endswith(tokenizer.token_text(example.ids[example.right_index]).strip())
        assert len({example.text for example in examples}) == len(examples)
    with pytest.raises(LabError, match="no stories with the pronoun it"):
        world_coref_examples(World.load("tiny"), tokenizer)


def test_coreference_is_measured_as_its_formula(demo):
    """log P(right) - log P(wrong), each the sum over the answer's tokens, by one forward pass without padding."""
    model, tokenizer = demo.model("sft"), demo.tokenizer()
    examples = winograd_examples(tokenizer, 3)

    def said(ids: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            row = torch.tensor([[*ids, *answer]], device=model.embedding.weight.device)
            logprobs = model(row)[0].log_softmax(-1)
        return sum(float(logprobs[len(ids) - 1 + i, token]) for i, token in enumerate(answer))

    expected = [
        said(example.ids, example.right_answer_ids) - said(example.ids, example.wrong_answer_ids)
        for example in examples
    ]
    assert answer_log_odds(model, examples).tolist() == pytest.approx(expected, abs=1e-3)
    assert accuracy_and_standard_error(torch.tensor([1.0, -1.0, 2.0, 3.0])) == (
        0.75,
        pytest.approx((0.75 * 0.25 / 4) ** 0.5),
    )


def test_heads_are_found_by_what_they_do(demo):
    """The demo's model answers such questions; its first layer has a head that looks one token back."""
    model, tokenizer = demo.model("sft"), demo.tokenizer()
    examples = world_coref_examples(World.load("lab"), tokenizer, 16)
    found = find_heads(model, tokenizer, examples)
    assert found.accuracy > 0.9 and found.mean_log_odds > 2 and len(found.heads) == 8
    assert max(found.heads, key=lambda head: head.previous_token)[:2] == (0, 1)
    carried = [head.ablation_log_odds_drop for head in found.heads if head.ablation_log_odds_drop is not None]
    assert len(carried) == 8 and carried == sorted(carried, reverse=True) and carried[0] > 1
    fewer = [head.ablation_log_odds_drop for head in find_heads(model, tokenizer, examples, num_ablated=2).heads]
    assert sum(effect is not None for effect in fewer) == 2 and fewer[-1] is None


def test_a_head_that_copies_has_the_scores_of_an_induction_head(tokenizer):
    """A model whose attention is put in place by hand: its only head looks one token back, and nowhere else."""
    from labkit.interpret.heads import _repeated

    class Back(torch.nn.Module):
        config = ModelConfig(tokenizer.vocab_size, 64, width=8, depth=1, heads=1, key_value_heads=1)
        embedding = torch.nn.Embedding(1, 1)

        def __init__(self, distance: int):
            super().__init__()
            self.distance = distance

        def hidden_states(self, ids, tap):
            B, T = ids.shape
            back = torch.zeros(B, 1, T, T)
            rows = torch.arange(self.distance, T)
            back[..., rows, rows - self.distance] = 1
            tap("blocks.0.attention.weights", back)

    for distance, expected in ((1, (1.0, 0.0)), (19, (0.0, 1.0))):
        stand_in: Any = Back(distance)
        previous, induction = _repeated(stand_in, tokenizer)
        assert (float(previous), float(induction)) == expected


def test_divergence_of_what_is_forbidden_by_hand():
    """From (1/2, 1/2, 0) to (1/4, 1/2, 1/4): half of log 2; the forbidden third adds nothing."""
    before, after = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert kl_divergence(before, after).item() == pytest.approx(0.5 * math.log(2))
