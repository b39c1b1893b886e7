import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from labkit import machine
from labkit.errors import LabError
from labkit.training.config import StepRecord, TrainConfig, fingerprint
from labkit.training.loop import fit
from labkit.training.optimizer import MuonAdamW
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective, weights_hash


@pytest.fixture(autouse=True)
def fresh():
    """What was said once may be said again."""
    machine.warn_once.cache_clear()


def train_tiny(config, folder=None, model=None, source=None, **options):
    model = model or TinyModel()
    records = list(
        fit(model, source or Counting(rows=config.batch_size), tiny_objective, config, folder=folder, **options)
    )
    return model, records


def stop_after(step, config, folder, model=None, source=None):
    for record in fit(model or TinyModel(), source or Counting(), tiny_objective, config, folder=folder):
        if record.step == step:
            break


def test_it_learns_and_says_so():
    model, records = train_tiny(tiny_config(steps=60))
    assert [r.step for r in records] == list(range(1, 61))
    assert records[0].loss > 2  # about log 11: nothing known
    assert records[-1].loss < records[0].loss / 2
    assert records[-1].metrics["right"] > 0.8  # a sum over labels, divided by how many
    assert records[0].lr == 0.025 and records[10].lr == 0.05
    assert all(a.elapsed_seconds <= b.elapsed_seconds for a, b in zip(records, records[1:], strict=False))
    assert not model.training


def test_adamw_and_cosine():
    config = tiny_config(steps=60, optimizer="adamw", schedule="cosine", adamw_lr=0.03)
    _, records = train_tiny(config)
    assert records[-1].loss < records[0].loss / 2 and records[-1].lr < 0.001


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_one_big_batch(accumulate):
    """Rows count differently many labels, so a mean of means would not be the same."""
    whole, whole_records = train_tiny(tiny_config(batch_size=8))
    parts, parts_records = train_tiny(tiny_config(batch_size=8 // accumulate, gradient_accumulation_steps=accumulate))
    for a, b in zip(whole_records, parts_records, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.num_labels == b.num_labels
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
        assert a.metrics == pytest.approx(b.metrics)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)


def test_a_sum_that_a_batch_does_not_have_is_a_mean_over_the_others():
    """Of two batches a step the first alone has `first`; in the last step none has `some`."""
    calls, seen = [0], list[float]()

    def objective(model, batch):
        loss_sum, count, metrics = tiny_objective(model, batch)
        number, calls[0] = calls[0], calls[0] + 1
        seen.append((metrics["right"] / count).item())
        absent = torch.tensor(math.nan)
        first = metrics["right"] if number % 2 == 0 else absent
        return loss_sum, count, metrics | {"first": first, "some": metrics["right"] if number < 6 else absent}

    config = tiny_config(steps=4, gradient_accumulation_steps=2)
    records = list(fit(TinyModel(), Counting(), objective, config))
    assert [record.metrics["first"] for record in records] == pytest.approx(seen[::2])
    assert [record.metrics.get("some") for record in records] == [one.metrics["right"] for one in records[:3]] + [None]


def test_the_gradient_is_of_the_mean_over_labels(monkeypatch):
    """First step: gradients as torch.autograd gives them for sum / count, then brought down to norm `clip`."""
    seen = {}

    def keep(self, closure=None):
        seen.update({name: p.grad.clone() for name, p in self.named.items()})

    monkeypatch.setattr(MuonAdamW, "step", keep)
    _, (record,) = train_tiny(tiny_config(steps=1, max_grad_norm=0.01))
    reference = TinyModel()
    loss_sum, counted, _ = tiny_objective(reference, Counting().next_batch(None, 0))
    (loss_sum / counted).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters() if p.grad is not None]).item()
    assert record.gradient_norm == pytest.approx(norm, rel=1e-5)
    for name, p in reference.named_parameters():
        assert p.grad is not None
        assert torch.allclose(seen[name], p.grad * 0.01 / norm, rtol=1e-3, atol=1e-8)


def test_clip_zero_does_not_clip(monkeypatch):
    norms = []
    monkeypatch.setattr(
        MuonAdamW,
        "step",
        lambda self: norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.named.values()]).item()),
    )
    _, (record,) = train_tiny(tiny_config(steps=1, max_grad_norm=0))
    assert norms == [pytest.approx(record.gradient_norm, rel=1e-5)]


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = TinyModel(dropout=0.5)
    torch.manual_seed(5)
    train_tiny(tiny_config(), model=model)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluate_is_called_between_steps_and_after_the_last():
    calls = []

    def evaluate(model, step):
        calls.append((step, model.training, torch.is_grad_enabled()))
        return {"validation_loss": 1.0}

    _, records = train_tiny(tiny_config(steps=5, evaluate_every=2), evaluate=evaluate)
    assert calls == [(2, False, False), (4, False, False), (5, False, False)]
    assert [r.step for r in records if "validation_loss" in r.metrics] == [2, 4, 5]


def test_a_record_is_one_flat_line():
    record = StepRecord(3, 1.5, 20, 1.0, 0.5, 2.25, {"right": 0.25})
    assert record.to_dict() == {
        "step": 3, "loss": 1.5, "counted": 20, "lr": 1.0, "gradient_norm": 0.5, "seconds": 2.25, "right": 0.25
    }  # fmt: skip


# Stopping and going on


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_stopped_and_resumed_is_never_stopped(tmp_path, stop):
    """Bit for bit, dropout included, from `break` at any step."""
    config = tiny_config()
    straight, records = train_tiny(config, model=TinyModel(dropout=0.3))
    stop_after(stop, config, tmp_path, TinyModel(dropout=0.3))
    resumed, rest = train_tiny(config, tmp_path, model=TinyModel(seed=9, dropout=0.3))
    assert weights_hash(straight) == weights_hash(resumed)
    assert [r.step for r in rest] == list(range(stop + 1, 7))
    assert [r.loss for r in rest] == [r.loss for r in records[stop:]]


def test_metrics_are_of_one_unbroken_run(tmp_path):
    config = tiny_config(checkpoint_every=4)
    stop_after(5, config, tmp_path)
    (tmp_path / "checkpoints" / "step-00000005" / "state.json").unlink()  # as if killed before it was whole
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with pytest.warns(UserWarning, match="step-00000005 is damaged"):
        train_tiny(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    _, records = train_tiny(config)
    assert [line["loss"] for line in lines] == [record.loss for record in records]


def test_a_finished_run_is_not_trained_further(tmp_path):
    first, _ = train_tiny(tiny_config(), tmp_path)
    again, records = train_tiny(tiny_config(), tmp_path, model=TinyModel(seed=3))
    assert records == [] and weights_hash(first) == weights_hash(again)


def test_two_checkpoints_are_kept(tmp_path):
    train_tiny(tiny_config(steps=7), tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000007"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_truncated_checkpoint_falls_back_on_the_one_before(tmp_path, name):
    config = tiny_config()
    straight, _ = train_tiny(config)
    stop_after(4, config, tmp_path)
    file = tmp_path / "checkpoints" / "step-00000004" / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="step-00000004 is damaged"):
        resumed, records = train_tiny(config, tmp_path)
    assert records[0].step == 3 and weights_hash(resumed) == weights_hash(straight)


def test_what_a_source_remembers_comes_back(tmp_path):
    class Remembering(Counting):
        seen = 0
        last = torch.zeros(2)

        def next_batch(self, model, step):
            batch = super().next_batch(model, self.seen)
            self.seen, self.last = self.seen + 1, batch.inputs[0, :2].float()
            return batch

        def state_dict(self):
            return {"seen": self.seen, "last": self.last}

        def load_state_dict(self, state):
            self.seen, self.last = state["seen"], state["last"]

    config, source = tiny_config(), Remembering()
    straight, _ = train_tiny(config, source=Remembering())
    stop_after(3, config, tmp_path, source=Remembering())
    resumed, _ = train_tiny(config, tmp_path, source=source)
    assert source.seen == 6 and source.asked == [3, 4, 5] and source.last.shape == (2,)
    assert weights_hash(straight) == weights_hash(resumed)


def test_threads_are_those_of_the_checkpoint(tmp_path):
    stop_after(2, tiny_config(), tmp_path)
    torch.set_num_threads(2)
    train_tiny(tiny_config(), tmp_path)
    assert torch.get_num_threads() == 1


def test_another_torch_is_said(tmp_path):
    stop_after(2, tiny_config(), tmp_path)
    state = tmp_path / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(state.read_text().replace(torch.__version__, "1.0.0"))
    with pytest.warns(UserWarning, match="these changed: torch. The last bits of results may differ"):
        train_tiny(tiny_config(), tmp_path)


# What goes wrong, in words


def test_a_folder_of_another_recipe_is_refused_and_left_alone(tmp_path):
    stop_after(3, tiny_config(), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError, match="step-00000003 was saved with a different recipe"):
        train_tiny(tiny_config(muon_lr=0.01), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def breaking(after, value):
    """The tiny objective, whose loss becomes `value` once it was called `after` times."""
    calls = []

    def objective(model, batch):
        loss_sum, counted, metrics = tiny_objective(model, batch)
        calls.append(1)
        return (loss_sum * value if len(calls) > after else loss_sum), counted, metrics

    return objective


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(tmp_path, value):
    model = TinyModel()
    with pytest.raises(LabError) as caught:
        list(fit(model, Counting(), breaking(3, value), tiny_config(), folder=tmp_path))
    assert str(caught.value).startswith(f"The loss became {value} at step 4, so training stopped.")
    assert f"The weights of step 2 are kept in {tmp_path / 'checkpoints' / 'step-00000002'}." in str(caught.value)
    good = TinyModel()
    stop = fit(good, Counting(), tiny_objective, tiny_config())
    for _ in range(3):
        next(stop)
    assert weights_hash(model) == weights_hash(good)
    resumed, _ = train_tiny(tiny_config(), tmp_path)  # the checkpoint is whole
    assert weights_hash(resumed) == weights_hash(train_tiny(tiny_config())[0])


def test_a_gradient_that_is_no_number_stops_too():
    def objective(model, batch):
        loss_sum, counted, metrics = tiny_objective(model, batch)
        return loss_sum + (0 * model.up.weight.sum()).sqrt(), counted, metrics  # value 0, slope 0 x inf

    with pytest.raises(LabError, match="The gradient's norm became nan at step 1.*keeps the weights before"):
        list(fit(TinyModel(), Counting(), objective, tiny_config()))


def test_a_batch_in_which_nothing_counts():
    def objective(model, batch):
        loss_sum, _, metrics = tiny_objective(model, batch)
        return loss_sum, torch.tensor(0), metrics

    with pytest.raises(LabError, match="Step 1: no token of the batch is a label"):
        list(fit(TinyModel(), Counting(), objective, tiny_config()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"muon_lr": -1.0}, "muon_lr must be at least 0, not -1"),
        ({"adamw_lr": math.nan}, "adamw_lr must be at least 0, not nan"),
        ({"decay_fraction": 0.0}, "decay_fraction must be above 0 and at most 1, not 0"),
    ],
)
def test_a_config_that_makes_no_sense(change, words):
    with pytest.raises(LabError, match=words):
        TrainConfig(**change)


def test_no_compiler_is_said_once_and_training_goes_on(monkeypatch):
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    with pytest.warns(UserWarning, match="No C\\+\\+ compiler") as caught:
        model, _ = train_tiny(tiny_config(compile=True))
        train_tiny(tiny_config(compile=True))
    assert len(caught) == 1
    assert weights_hash(model) == weights_hash(train_tiny(tiny_config())[0])


def test_a_compiler_that_fails_is_said_and_training_goes_on(monkeypatch):
    from torch._inductor.exc import InductorError

    def broken(function, **options):
        def call(*args):
            raise InductorError(RuntimeError("cc1plus: out of memory"), None)

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="torch.compile failed.*cc1plus"):
        model, _ = train_tiny(tiny_config(compile=True))
    assert weights_hash(model) == weights_hash(train_tiny(tiny_config())[0])


def test_gradients_from_before_do_not_leak_into_the_first_step():
    model = TinyModel()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    train_tiny(tiny_config(), model=model)
    assert weights_hash(model) == weights_hash(train_tiny(tiny_config())[0])


def test_no_bf16_is_said_and_training_goes_on_in_fp32(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: False)
    with pytest.warns(UserWarning, match="no bf16"):
        model, _ = train_tiny(tiny_config(precision="bf16"))
    assert weights_hash(model) == weights_hash(train_tiny(tiny_config())[0])


def test_bf16_is_used_in_model_and_loss_alone():
    seen = []

    def objective(model, batch):
        seen.append(model(batch.inputs).dtype)
        return tiny_objective(model, batch)

    model = TinyModel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(fit(model, Counting(), objective, tiny_config(steps=1, precision="bf16")))
    assert seen == [torch.bfloat16 if machine.has_bf16() else torch.float32]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_fingerprints():
    config = tiny_config()
    assert fingerprint(config) == fingerprint(tiny_config()) != fingerprint(replace(config, muon_lr=0.1))


def test_the_seed_decides_dropout():
    losses: dict[int, list[list[float]]] = {}
    for seed in (0, 0, 1):
        records = list(fit(TinyModel(dropout=0.5), Counting(), tiny_objective, tiny_config(steps=3), seed=seed))
        losses.setdefault(seed, []).append([record.loss for record in records])
    assert losses[0][0] == losses[0][1] != losses[1][0]
