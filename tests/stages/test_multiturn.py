"""Multi-turn GRPO: every turn learns from the reward at the end, nothing is learnt of what the user says."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.runs.plan import make_plan
from labkit.runs.presets import make_recipe
from labkit.stages.credit import GroupMean, KLInLoss, NoKL, ValueModel
from labkit.stages.doctor import diagnose
from labkit.stages.grpo import GRPO
from labkit.stages.multiturn import ConversationSource, MultiTurn, Satisfaction
from labkit.stages.registry import stage_claims
from labkit.stages.rewards import Verifier
from labkit.text.reading import Texts
from labkit.text.reading.report import ReadReport
from labkit.training.loop import fit
from labkit.ui.chinese import UNTRANSLATED, translate_message_to_chinese
from labkit.world.users import SimulatedUser
from tests.tiny_alignment import TRAIN, content_with_vowels
from tests.workers import finish, start

SHORT = dataclasses.replace(TRAIN, steps=24, batch_size=16, max_length=200, adamw_lr=1e-2)


def stage(train=SHORT, **changes) -> MultiTurn:
    return MultiTurn(train, **{"max_new_tokens": 10} | changes)


@pytest.fixture
def vowels(monkeypatch):
    """See `content_with_vowels`."""
    monkeypatch.setattr(SimulatedUser, "satisfaction", content_with_vowels)


def rollout(one: MultiTurn, stage_inputs):
    model = one.initial_model(stage_inputs)
    source = one.source(stage_inputs, model)
    assert isinstance(source, ConversationSource)
    return model, source, source.next_batch(model, 0)


def spans(mask: torch.Tensor) -> int:
    """In how many stretches a row [T] is True."""
    padded = torch.cat([torch.tensor([False]), mask])
    return int((padded[1:] & ~padded[:-1]).sum())


@pytest.mark.parametrize("baseline", [GroupMean(), ValueModel()])
def test_the_reward_rises_and_every_turn_learns(stage_inputs, vowels, baseline):
    one = stage(baseline=baseline, whiten=isinstance(baseline, ValueModel))
    model, source, _ = rollout(one, stage_inputs)

    def by_turn() -> list[float]:
        """Vowels of first and of second answers: the reward speaks of both together alone."""
        held = source._sampled(model, 1000).conversations
        turns = [[m.content for m in talk.user.messages if m.role == "assistant"] for talk in held]
        return [sum(vowel in said[at] for said in turns for vowel in "aeiou") / len(turns) for at in range(2)]

    before = by_turn()
    records = list(fit(model, source, one.objective, one.train))
    first, last = (sum(one.metrics["reward"] for one in part) / 4 for part in (records[:4], records[-4:]))
    assert last > first + 0.3
    assert all(after > early for after, early in zip(by_turn(), before, strict=True))
    assert records[-1].metrics["turns"] == 2 and records[-1].metrics["right"] == 0, "every answer is wrong"


def test_a_rollout_is_what_was_said_and_only_answers_count(stage_inputs):
    one = stage()
    model, source, _ = rollout(one, stage_inputs)
    samples = source._sampled(model, 0)
    tokenizer, G = stage_inputs.tokenizer, one.num_generations
    for row, talk in enumerate(samples.conversations):
        ids, mask = samples.batch.inputs[row], samples.batch.mask[row]
        assert ids[: len(talk.ids) - 1].tolist() == talk.ids[:-1]
        assert mask[: len(talk.ids) - 1].tolist() == talk.answer_mask[1:] and not mask[len(talk.ids) - 1 :].any()
        assert spans(mask) == talk.answers == 2
        drawn = samples.batch.labels[row][mask].tolist()
        assert drawn == [token for token, is_drawn in zip(talk.ids, talk.answer_mask, strict=True) if is_drawn]
        said = " ".join(message.content for message in talk.user.messages if message.role == "user")
        user_ids = [token for token, is_drawn in zip(talk.ids, talk.answer_mask, strict=True) if not is_drawn]
        assert (
            " ".join(tokenizer.decode(user_ids).split()).count(talk.user.asked[0])
            == 2
            == said.count(talk.user.asked[0])
        )
    stories = [talk.user.story.text for talk in samples.conversations]
    assert len(set(stories)) == len(stories) // G and stories[0] == stories[G - 1] != stories[G]


@pytest.mark.parametrize("baseline", [GroupMean(), ValueModel()])
def test_nothing_of_what_the_user_says_is_in_the_loss(stage_inputs, vowels, baseline):
    """Other log-probabilities, labels, advantages, values there: the same loss, metrics and gradient, bit for bit."""
    one = stage(baseline=baseline, kl=KLInLoss(0.5), entropy_coef=0.1, epochs=2)
    model, _, batch = rollout(one, stage_inputs)
    model.eval()

    def result(given):
        model.zero_grad()
        loss, count, watched = one.objective(model, given)
        loss.backward()
        numbers = [loss.detach(), count, *(watched[name].detach() for name in sorted(watched))]
        return numbers, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    between = ~batch.mask
    other = {
        name: torch.where(between, torch.full_like(getattr(batch, name), 7), getattr(batch, name))
        for name in ("labels", "logprobs", "reference_logprobs", "values", "advantages", "returns")
    }
    (numbers, gradient), (again, gradient_again) = result(batch), result(batch._replace(**other))
    assert numbers[0] != 0 and all(map(torch.equal, numbers, again))
    assert len(gradient) > 5 and all(map(torch.equal, gradient, gradient_again))
    changed = batch._replace(logprobs=torch.where(batch.mask, batch.logprobs - 1, batch.logprobs))
    assert not torch.equal(result(changed)[0][0], numbers[0]), "those of the answers do count"


def test_no_logit_before_a_users_token_has_a_gradient(stage_inputs, vowels):
    """The loss as a function of all hidden states: its gradient is 0 where the next token is the user's."""
    one = stage(kl=KLInLoss(0.5))
    model, _, batch = rollout(one, stage_inputs)
    kept = []
    whole = model.hidden_states

    def hidden_states(*given, **options):
        kept.append(whole(*given, **options))
        kept[-1].retain_grad()
        return kept[-1]

    model.hidden_states = hidden_states
    one.objective(model, batch)[0].backward()
    del model.hidden_states
    gradient = kept[0].grad.abs().sum(-1)
    assert not gradient[~batch.mask].any() and (gradient[batch.mask] > 0).float().mean() > 0.5


def test_all_answers_of_a_conversation_have_its_advantage(stage_inputs, vowels):
    """And with a value model that says 0 and no discount, each token the satisfaction: across the user's turns."""
    one = stage(kl=NoKL())
    _, source, batch = rollout(one, stage_inputs)
    scores = torch.tensor(
        [talk.user.satisfaction() for talk in source._sampled(rollout(one, stage_inputs)[0], 0).conversations]
    )
    groups = scores.view(-1, 4)
    wanted = ((groups - groups.mean(-1, keepdim=True)) / (groups.std(-1, keepdim=True) + 1e-4)).flatten()
    for row, advantage in enumerate(wanted):
        found = batch.advantages[row][batch.mask[row]]
        torch.testing.assert_close(found, advantage.expand_as(found))
    assert not batch.advantages[~batch.mask].any()

    with_critic = stage(kl=NoKL(), baseline=ValueModel(gamma=1.0, lam=1.0))
    _, _, batch = rollout(with_critic, stage_inputs)
    for row, score in enumerate(scores):
        found = batch.returns[row][batch.mask[row]]
        torch.testing.assert_close(found, score.expand_as(found), atol=1e-5, rtol=1e-5)


class OneAnswer(Satisfaction):
    """The satisfaction of a user who reads one answer, as a reward of single answers."""

    def of_samples(self, stage_inputs, prompts, precision):
        def rewards(indices, samples):
            found = []
            for index, drawn in zip(indices, samples.completions, strict=True):
                user = prompts.user(index)
                user.first_message()
                user.reply(stage_inputs.tokenizer.decode(drawn).removesuffix("<|end|>").removeprefix(" "))
                found.append(user.satisfaction())
            return found

        return rewards


def test_one_question_and_one_answer_is_grpo(stage_inputs, vowels, monkeypatch):
    """The same rollout, loss and gradient as the page of single answers, whose reward is the user's."""
    one = stage(num_questions=1, max_turns=1, loss_mean="answer")
    monkeypatch.setattr(GRPO, "prompts", lambda self, inputs: one.prompts(inputs))
    monkeypatch.setattr(Verifier, "of_samples", OneAnswer.of_samples)
    single = GRPO(SHORT, reward=Verifier(), max_new_tokens=10)
    found = []
    for page in (one, single):
        model = page.initial_model(stage_inputs)
        batch = page.source(stage_inputs, model).next_batch(model, 3)
        loss, count, _ = page.objective(model, batch)
        loss.backward()
        found.append((batch, loss, count, [w.grad for w in model.parameters() if w.grad is not None]))
    (ours, *our_numbers, our_gradient), (theirs, *their_numbers, their_gradient) = found
    for name in ("inputs", "labels", "mask", "logprobs", "reference_logprobs", "advantages", "returns"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.advantages.any() and all(map(torch.equal, our_numbers, their_numbers))
    assert all(map(torch.equal, our_gradient, their_gradient))
    assert ours.metrics["turns"] == 1


def test_with_shared_prefixes_the_same_numbers(stage_inputs, vowels):
    plain, shared = (stage(dataclasses.replace(SHORT, prefix_sharing=sharing)) for sharing in (False, True))
    (model, _, ours), (_, _, theirs) = rollout(plain, stage_inputs), rollout(shared, stage_inputs)
    assert torch.equal(ours.inputs, theirs.inputs)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs)
    torch.testing.assert_close(plain.objective(model, ours)[0], shared.objective(model, theirs)[0])


def test_a_row_that_is_full_ends_its_conversation_and_many_are_said(stage_inputs, vowels):
    model, source, _ = rollout(stage(), stage_inputs)
    room = sorted(len(talk.ids) for talk in source._sampled(model, 0).conversations)[8]
    one = stage(dataclasses.replace(SHORT, max_length=room, batch_size=8, steps=10))
    model, source, _ = rollout(one, stage_inputs)
    assert max(len(talk.ids) for talk in source._sampled(model, 0).conversations) <= room
    records = [record.to_dict() for record in fit(model, source, one.objective, one.train)]
    truncated, turns = (sum(record[name] for record in records) / 10 for name in ("truncated", "turns"))
    assert 0.1 < truncated <= 1 and turns == pytest.approx(2 - truncated)
    (said,) = [found for found in diagnose("multiturn", one, records) if found.check == "conversations_do_not_fit"]
    assert "Raise --multiturn.train.max-length, up to the model's context, or lower --multiturn.num-questions" in (
        said.message
    )
    assert "对话" in translate_message_to_chinese(said.message)
    assert not [f for f in diagnose("multiturn", one, [r | {"truncated": 0.05} for r in records]) if "fit" in f.check]


def test_held_out_users_are_measured_before_and_after(stage_inputs):
    one = stage()
    found = one.evaluate(stage_inputs.model("sft"), stage_inputs, EvaluationConfig(policy_prompts=6))
    assert found["prompts"] == 6 and found["satisfaction_gain"] == 0 == found["satisfaction_gain_standard_error"]
    assert found["satisfaction"] == found["satisfaction_before"] <= 0 and found["turns"] == found["turns_before"] == 2
    (claim,) = stage_claims([{"stage": "multiturn", "metrics": found}])
    assert not claim.holds and stage_claims([{"stage": "multiturn", "metrics": {}}]) == []
    held_out, trained = one.held_out_users(stage_inputs), one.prompts(stage_inputs)
    assert (held_out.split, trained.split) == ("test", "train") and held_out.seed != trained.seed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: stage(max_turns=1),
            "MultiTurn: a user with 2 questions reads at least as many answers, and max_turns",
        ),
        (lambda: stage(num_generations=1), "GroupMean compares the answers to one prompt"),
        (lambda: stage(num_questions=0), "MultiTurn: num_questions must be at least 1"),
        (lambda: stage(max_new_tokens=200), "MultiTurn: answers of 200 tokens leave no room for a prompt"),
        (lambda: stage(max_kl=0.1), "MultiTurn: max_kl ends the steps on a rollout early, and epochs is 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, words):
    with pytest.raises(LabError, match=words):
        make()


def test_what_cannot_be_asked_is_refused_beforehand(stage_inputs):
    texts = Texts(("a",), ("b",), ReadReport("x.txt"))
    refused = [
        (stage(), dataclasses.replace(stage_inputs, texts=texts), "MultiTurn: the simulated users ask about TinyWorld"),
        (stage(dataclasses.replace(SHORT, max_length=20)), stage_inputs, "leaves 10 tokens for a prompt, too few for"),
        (stage(dataclasses.replace(SHORT, batch_size=6)), stage_inputs, "6 answers cannot be split into 4 per prompt"),
        (stage(), dataclasses.replace(stage_inputs, annotator="kind"), "There is no annotator 'kind'"),
    ]
    for one, inputs, words in refused:
        with pytest.raises(LabError, match=words) as raised:
            one.check(inputs, EvaluationConfig())
        said = translate_message_to_chinese(str(raised.value))
        assert not said.startswith(UNTRANSLATED.format(""))
    said = translate_message_to_chinese(
        "MultiTurn: a user with 2 questions reads at least as many answers, and "
        "max_turns is 1. Raise max_turns, or lower num_questions."
    )
    assert said.startswith("MultiTurn：有 2 个问题的用户")


def test_it_follows_fine_tuning_without_a_reward_model():
    recipe = make_recipe("smoke")
    given = recipe.stages
    plan = make_plan(pretrain=given["pretrain"], sft=given["sft"], multiturn=MultiTurn(given["ppo"].train))
    made = dataclasses.replace(recipe, plan=plan)
    assert made.ancestors("multiturn") == ["pretrain", "sft"] and not made.stages["multiturn"].needs_reward_model


def killed(folder: Path, records: int) -> None:
    """Begin or resume, and kill once so many steps are recorded."""
    log = folder / "metrics.jsonl"
    (process,), until = start("tests.engines", ["multiturn", "8", str(folder)], 1), time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if log.exists() and log.read_bytes().count(b"\n") >= records:
            break
        time.sleep(0.002)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_and_resumed_the_same_weights_and_two_processes_are_as_one(tmp_path):
    """Of 8 steps, two on each rollout, a checkpoint after every third: the first one stands inside a rollout."""
    (straight,) = map(json.loads, finish(start("tests.engines", ["multiturn", "8", str(tmp_path / "a")], 1)))
    for records in (4, 5):
        killed(tmp_path / "b", records)
    (resumed,) = map(json.loads, finish(start("tests.engines", ["multiturn", "8", str(tmp_path / "b")], 1)))
    assert len(straight["records"]) == 8 > len(resumed["records"]), "it resumed"
    assert resumed["hash"] == straight["hash"] and straight["records"][0]["gradient_norm"] > 0

    both = map(json.loads, finish(start("tests.engines", ["multiturn", "8", str(tmp_path / "c")], 2)))
    for one in both:
        assert len(one["records"]) == 8
        for ours, theirs in zip(straight["records"], one["records"], strict=True):
            for name in ("loss", "counted", "gradient_norm", "reward", "kl", "right", "repeats", "turns", "truncated"):
                assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name
