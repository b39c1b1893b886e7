"""Reward model, PPO and DPO on a model of seconds: what each learns, and what a rollout is."""

import dataclasses
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from labkit import machine
from labkit.decoding import Temperature, generate
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.policies import held_out_prompts, policy_metrics
from labkit.evaluation.preference_accuracy import ranking_metrics
from labkit.losses import entropy, sum_logprobs, token_logprobs
from labkit.model.actor_critic import ActorCritic, actor_critic_output, actor_of
from labkit.model.reward_model import RewardModel
from labkit.stages import DPO, PPO, RewardModeling
from labkit.stages.preference_policy import pair_logprobs
from labkit.stages.rollouts import RolloutSource
from labkit.stages.sampling import Sampler
from labkit.text.chat import encode_prompt, without_end_token
from labkit.text.pairs import PreferencePair, collate_pairs, encode_pair
from labkit.text.reading import Conversations, Preferences
from labkit.text.reading.report import ReadReport
from labkit.training.loop import fit
from labkit.world import Message
from tests.tiny_alignment import TRAIN, tiny_materials


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


def test_the_reward_model_learns_what_was_chosen(stage_inputs):
    stage = RewardModeling(TRAIN)
    model = stage.initial_model(stage_inputs)
    untrained = stage.validation_loss(model, stage_inputs, EvaluationConfig())
    list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train))
    found = ranking_metrics(model, stage_inputs.tokenizer, stage_inputs.fitting_held_out_pairs(64), 64)
    assert found["pair_accuracy"] > 0.9 and found["validation_loss"] < min(0.5, untrained)


def test_a_score_reads_the_whole_answer_and_nothing_after(stage_inputs):
    tokenizer = stage_inputs.tokenizer
    model = RewardModel(stage_inputs.model("sft"))
    with torch.no_grad():
        model.head.weight.normal_()
    one, other = stage_inputs.fitting_pairs(64)[:2]
    alone = collate_pairs([encode_pair(tokenizer, one)], 64, tokenizer.pad_token_id)
    beside = collate_pairs([encode_pair(tokenizer, one), encode_pair(tokenizer, other)], 64, tokenizer.pad_token_id)
    with torch.no_grad():
        scores, among = (model.scores_at(batch.inputs, batch.mask, batch.last_token_index) for batch in (alone, beside))
        torch.testing.assert_close(scores, among[[0, 2]])
        ids, answer = encode_pair(tokenizer, one)[0]
        found = model(torch.tensor([ids]), torch.tensor([[*answer[1:], False]]))
        torch.testing.assert_close(found[0, -1], scores[0])


def test_a_score_begins_as_the_mean_log_probability_of_the_answer(stage_inputs):
    tokenizer, model = stage_inputs.tokenizer, RewardModel(stage_inputs.model("sft"))
    pairs = stage_inputs.fitting_pairs(64)[:3]
    batch = collate_pairs([encode_pair(tokenizer, pair) for pair in pairs], 64, tokenizer.pad_token_id)
    with torch.no_grad():
        expected = sum_logprobs(model.body(batch.inputs), batch.labels, batch.mask) / batch.mask.sum(-1)
        torch.testing.assert_close(model.scores_at(batch.inputs, batch.mask, batch.last_token_index), expected)
        model.logprob_weight.fill_(0.0)
        assert model.scores_at(batch.inputs, batch.mask, batch.last_token_index).abs().max() == 0


def test_a_value_knows_no_token_after_its_own(stage_inputs):
    model = RewardModel(stage_inputs.model("sft"))
    with torch.no_grad():
        model.head.weight.normal_()
        tokens, mask = torch.randint(stage_inputs.tokenizer.vocab_size, (1, 20)), torch.arange(20)[None] >= 8
        whole = model(tokens, mask)
        for end in (5, 9, 15):
            torch.testing.assert_close(model(tokens[:, :end], mask[:, :end])[0, -1], whole[0, end - 1])


def test_dpo_begins_at_log_2_and_learns(stage_inputs):
    stage = DPO(dataclasses.replace(TRAIN, adamw_lr=1e-3))
    model = stage.initial_model(stage_inputs)
    records = list(fit(model, stage.source(stage_inputs, model), stage.objective, stage.train))
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert records[0].metrics["chosen_reward"] == pytest.approx(0, abs=1e-5)
    assert (
        stage.validation_loss(model, stage_inputs, EvaluationConfig()) < 0.6 and records[-1].metrics["accuracy"] > 0.9
    )


def test_reference_logprobs_are_those_of_each_answer_alone(stage_inputs):
    model, tokenizer, pairs = stage_inputs.model("sft"), stage_inputs.tokenizer, stage_inputs.fitting_pairs(64)[:5]
    together = pair_logprobs(model, tokenizer, pairs, 64, "fp32", batch_size=3)
    for pair, found in zip(pairs, together, strict=True):
        for row, value in zip(encode_pair(tokenizer, pair), found, strict=True):
            ids, counts = torch.tensor([row[0]]), torch.tensor([row[1]])
            with torch.no_grad():
                expected = sum_logprobs(model(ids[:, :-1]), ids[:, 1:], counts[:, 1:])
            assert value == pytest.approx(expected.item(), abs=1e-4)


def ppo(**changes) -> PPO:
    train = dataclasses.replace(TRAIN, steps=12, batch_size=16, max_length=160, adamw_lr=1e-3)
    return PPO(train, max_new_tokens=10, **changes)


def test_a_rollout_is_what_the_model_wrote(stage_inputs):
    stage = ppo(epochs=2)
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    first = source.next_batch(model, 0)
    assert source.next_batch(model, 1) is first and source.next_batch(model, 2) is not first
    with torch.no_grad():
        x, values = actor_critic_output(model, first.inputs, first.mask)
    expected = token_logprobs(actor_of(model).logits(x), first.labels) * first.mask
    torch.testing.assert_close(expected, first.logprobs)
    torch.testing.assert_close(values, first.values)
    assert first.mask.sum(-1).max() <= 11 and first.mask.any(-1).all()
    assert first.metrics["kl"].item() == pytest.approx(0, abs=1e-5)  # nothing has moved yet
    assert first.advantages[first.mask].mean().item() == pytest.approx(0, abs=1e-5)


def test_log_probabilities_are_those_of_the_distribution_that_was_sampled(stage_inputs):
    """At a temperature of its own; ratio and KL are then 1 and 0 before the first step."""
    stage = ppo(temperature=0.5)
    model = stage.initial_model(stage_inputs)
    batch = stage.source(stage_inputs, model).next_batch(model, 0)
    with torch.no_grad():
        x, _ = actor_critic_output(model, batch.inputs, batch.mask)
        logits = actor_of(model).logits(x) / 0.5
    torch.testing.assert_close(token_logprobs(logits, batch.labels) * batch.mask, batch.logprobs)
    assert batch.metrics["kl"].item() == pytest.approx(0, abs=1e-5)
    loss, count, watched = stage.objective(model, batch)
    assert loss.item() == pytest.approx(stage.vf_coef * watched["value_loss"].item(), abs=1e-3)
    spread = entropy(logits)[batch.mask].mean()
    assert watched["entropy"].item() / count.item() == pytest.approx(spread.item(), abs=1e-4)


def test_what_is_learned_from_is_what_was_drawn(stage_inputs):
    """An answer ends with the end token that was drawn, whichever it is; one that was cut off ends with none."""
    tokenizer, model = stage_inputs.tokenizer, stage_inputs.model("sft")
    prompts = [stage_inputs.prompts(160, 10).prompt_ids(0)] * 200
    sampler = Sampler(tokenizer, max_length=160, max_new_tokens=10, temperature=1.0)
    draws = torch.rand(200, 10, generator=torch.Generator().manual_seed(0))
    samples = sampler.sample(model, prompts, draws)
    free = generate(
        model, prompts, filters=[Temperature(1.0)], batch_size=200, max_new_tokens=10, uniform_draws=draws.unsqueeze(1)
    )
    ends = set()
    for drawn, other, labels, mask in zip(
        samples.completions, free, samples.batch.labels, samples.batch.mask, strict=True
    ):
        stop = next((at for at, token in enumerate(other) if token in tokenizer.stop_ids), len(other))
        assert list(drawn) == other[: stop + 1] == labels[mask].tolist()
        assert list(without_end_token(tokenizer, drawn)) == other[:stop]
        ends.add(drawn[-1])
    assert len(ends & set(tokenizer.stop_ids)) > 1 and ends - set(tokenizer.stop_ids)


def test_a_judge_that_gives_no_numbers_is_refused(stage_inputs):
    stage = ppo()
    model = stage.initial_model(stage_inputs)
    for reward in (lambda indices, samples: [1], lambda indices, samples: [math.nan] * len(indices)):
        source = stage.source(stage_inputs, model)
        assert isinstance(source, RolloutSource)
        source.reward = reward
        with pytest.raises(LabError, match="must return one finite score for each of 16 answers"):
            source.next_batch(model, 0)
    assert isinstance(source, RolloutSource)
    source.reward = lambda indices, samples: [
        len(answer) for answer in samples.completions
    ]  # whole numbers are numbers
    batch = source.next_batch(model, 0)
    assert batch.metrics["reward"].item() == pytest.approx(batch.metrics["length"].item())


def test_accumulated_rollouts_are_one_large_rollout(stage_inputs):
    """Two batches a step, two steps on them: four batches, of which the last two are the first two again."""
    stage = ppo(epochs=2)
    stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, gradient_accumulation_steps=2))
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    first, second, again, once_more = (source.next_batch(model, n) for n in range(4))
    assert again is first and once_more is second and not first.inputs.equal(second.inputs)
    both = torch.cat([one.advantages[one.mask] for one in (first, second)])
    assert both.mean().item() == pytest.approx(0, abs=1e-5)
    assert both.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    tokens = sum(int(one.mask.sum()) for one in (first, second))
    assert first.metrics == second.metrics  # means are over the answers of both
    assert first.metrics["length"] == pytest.approx(tokens / 32)
    resumed = stage.source(stage_inputs, model)
    resumed.load_state_dict(source.state_dict())
    assert_equal_tensors((first, second), (resumed.next_batch(model, 2), resumed.next_batch(model, 3)))
    assert source.next_batch(model, 4) is not first


def assert_equal_tensors(ours, theirs):
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert one.equal(other)


def test_what_is_written_depends_on_the_step_alone(stage_inputs):
    stage = ppo()
    model = stage.initial_model(stage_inputs)
    ahead, again = stage.source(stage_inputs, model), stage.source(stage_inputs, model)
    ahead.next_batch(model, 0)
    assert_equal_tensors(ahead.next_batch(model, 2), again.next_batch(model, 2))


def test_rollouts_by_the_compiled_writer_are_the_same(stage_inputs, monkeypatch):
    """Its step without the compiler, whose rounding would differ in the last bits."""
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    model = ppo().initial_model(stage_inputs)
    fast = ppo(compile_rollouts=True).source(stage_inputs, model)
    plain = ppo().source(stage_inputs, model)
    assert isinstance(fast, RolloutSource) and isinstance(plain, RolloutSource)
    assert_equal_tensors(plain.generate_batches(model, 0), fast.generate_batches(model, 0))
    assert fast.sampler.writer is not None and fast.sampler.writer.model is actor_of(model)


def test_a_rollout_survives_a_stop(stage_inputs):
    stage = ppo()
    model = stage.initial_model(stage_inputs)
    source, resumed = stage.source(stage_inputs, model), stage.source(stage_inputs, model)
    batch = source.next_batch(model, 0)
    resumed.load_state_dict(source.state_dict())
    assert_equal_tensors(batch, resumed.next_batch(model, 1))
    with pytest.raises(LabError, match="Step 1 needs a rollout that was not saved"):
        stage.source(stage_inputs, model).next_batch(model, 1)


def test_ppo_raises_the_reward(stage_inputs):
    """The reward is how many of the last ten tokens are even: something to find within seconds."""
    reward_model = RewardModel(stage_inputs.model("sft"))
    reward_model.logprob_weight.data.fill_(0.0)  # it says nothing of even tokens

    class Counts(RewardModel):
        def scores_at(self, tokens, mask, ends, prefix_sharing=False):
            places = torch.arange(tokens.shape[1])
            return ((tokens % 2 == 0) & (places > ends[:, None] - 10)).float().sum(-1)

    counting = Counts(reward_model.body)
    stage = ppo(kl_coef=0.01, epochs=2)
    stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, steps=40, adamw_lr=3e-3))
    model = ActorCritic(stage_inputs.model("sft"), reward_model)
    source = stage.source(dataclasses.replace(stage_inputs, reward_model_of=lambda name: counting), model)
    records = list(fit(model, source, stage.objective, stage.train))
    assert records[-1].metrics["reward"] > records[0].metrics["reward"] + 1
    assert records[-1].metrics["kl"] > 0


def test_the_first_step_on_a_rollout_clips_nothing(stage_inputs):
    stage = ppo()
    model = stage.initial_model(stage_inputs)
    batch = stage.source(stage_inputs, model).next_batch(model, 0)
    loss, count, watched = stage.objective(model, batch)
    assert watched["clip_fraction"] == 0 and count == batch.mask.sum()
    # with ratio 1 the policy's part is minus the sum of whitened advantages, which is 0
    assert loss.item() == pytest.approx(stage.vf_coef * watched["value_loss"].item(), abs=1e-3)


def test_without_bf16_rollouts_are_worked_out_as_training_is(stage_inputs, monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: False)
    found = []
    for precision in ("fp32", "bf16"):
        stage = ppo()
        stage = dataclasses.replace(stage, train=dataclasses.replace(stage.train, precision=precision))
        model = stage.initial_model(stage_inputs)
        found.append(stage.source(stage_inputs, model).next_batch(model, 0))
    assert torch.equal(found[0].logprobs, found[1].logprobs) and torch.equal(found[0].inputs, found[1].inputs)


def test_rows_that_cannot_be_shared(stage_inputs):
    stage = ppo(num_generations=5)
    with pytest.raises(LabError, match="16 answers cannot be split into 5 per prompt on 1 processes"):
        stage.source(stage_inputs, stage.initial_model(stage_inputs))


def test_pairs_that_are_too_long_are_counted_and_said(stage_inputs):
    lengths = [
        max(len(ids) for ids, _ in encode_pair(stage_inputs.tokenizer, pair)) for pair in stage_inputs.fitting_pairs(64)
    ]
    between = max(lengths) - 1
    fit_there = sum(length <= between for length in lengths)
    with pytest.warns(UserWarning, match=f"{len(lengths) - fit_there} of {len(lengths)} preference pairs; left out"):
        assert stage_inputs.num_left_out_pairs(between) == len(lengths) - fit_there > 0
    found = RewardModeling(dataclasses.replace(TRAIN, max_length=between)).evaluate(
        RewardModel(stage_inputs.model("sft")), stage_inputs, EvaluationConfig()
    )
    assert found["left_out"] == len(lengths) - fit_there


def test_prompts_without_room_for_an_answer_are_counted_and_said(stage_inputs):
    given = [
        PreferencePair((Message("user", "Where is Tom? " * times),), "Here.", "There.") for times in (1, 20, 30, 40)
    ]
    reading = ReadReport("a file")
    given_data = {"conversations": Conversations([], [], reading), "preferences": Preferences(given, given, reading)}
    real = tiny_materials(**given_data)
    words = r"Longer than 32 tokens \(train.max_length\): 3 of 4 {}prompts with an answer of 8 tokens; left out: 3"
    with pytest.warns(UserWarning, match=words.format("")):
        assert real.prompts(32, 8).prompt_ids(0) == real.prompts(32, 8).prompt_ids(1)
    with pytest.warns(UserWarning, match=words.format("held-out ")):
        found = policy_metrics(real.model("sft"), real, 4, 32, 8)
    assert (found["prompts"], found["prompts_left_out"]) == (1, 3)


def test_tasks_without_room_for_an_answer_are_left_out_too(stage_inputs):
    lengths = [
        len(encode_prompt(stage_inputs.tokenizer, t.messages)) for t in held_out_prompts(stage_inputs, 20, 256, 8)[0]
    ]
    assert len(lengths) == 20
    with pytest.warns(UserWarning, match="held-out prompts with an answer of 1 token; left out"):
        tasks, _, asked, fit = held_out_prompts(stage_inputs, 20, max(lengths) + 1, 8)
    assert len(tasks) == len(asked) == 20 - fit.left_out == sum(size < max(lengths) for size in lengths) > 0


def test_no_pair_fits(stage_inputs):
    with pytest.raises(LabError, match="None of .* preference pairs fits, with its prompt, in 8 tokens"):
        stage_inputs.fitting_pairs(8)


def test_what_one_stage_has_made_another_is_given(stage_inputs):
    """Stages of a run share what is costly to make, as the log-probabilities of the reference."""
    first, second = stage_inputs.for_stage("sft", None), stage_inputs.for_stage("ppo", "reward")
    assert first.cached("twice", object) is second.cached("twice", object) is stage_inputs.cached("twice", object)
    assert (second.predecessor, second.reward_stage) == ("ppo", "reward")
