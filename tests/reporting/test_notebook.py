"""What a notebook shows of a run, event by event."""

from typing import Any

import torch

from labkit.reporting.notebook import (
    at_preset,
    generate_texts,
    notebook_preset,
    shipped_run,
    show_controls,
    show_progress,
    train,
)
from labkit.reporting.plots import metric_series
from labkit.runs.pipeline import Progress
from labkit.text.reading import ReadReport
from labkit.training.config import TrainConfig
from labkit.world import Message


def test_what_was_read_and_what_was_made_is_said(capsys):
    reading = ReadReport("rows")
    reading.read = 12
    result = {"stage": "dpo", "seconds": 3.0, "metrics": {"win_rate": 0.75}}
    record = reading.finish_and_check(12).to_dict_with_source()
    show_progress([Progress("preferences", "read", result=record), Progress("dpo", "finished", 5, 5, result=result)])
    said = capsys.readouterr().out
    assert "preferences: " in said and "read 12, kept 12" in said
    assert "dpo: win rate against the initial model 75.0 %, 3 s" in said


def test_a_setting_follows_the_preset(monkeypatch):
    monkeypatch.delenv("LABKIT_PRESET", raising=False)
    assert notebook_preset() == "smoke" and at_preset(smoke=1, lab=2) == 1
    monkeypatch.setenv("LABKIT_PRESET", "full")
    assert notebook_preset() == "full" and at_preset(smoke=1, lab=2) == 2


def test_training_gives_the_records_that_figures_take():
    class Ones:
        def next_batch(self, model, step):
            return torch.ones(2, 3)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    def squares(model, batch):
        return (model(batch) ** 2).sum(), torch.tensor(2.0), {}

    torch.manual_seed(0)
    config = TrainConfig(steps=3, optimizer="adamw", adamw_lr=1e-2, warmup_steps=1, precision="fp32")
    records = train(torch.nn.Linear(3, 1), Ones(), squares, config)
    assert [record["step"] for record in records] == [1, 2, 3] and records[2]["loss"] < records[0]["loss"]
    assert metric_series(records, "loss").values == [record["loss"] for record in records]


def test_texts_are_continued_and_messages_answered():
    run = shipped_run()
    model, tokenizer = run.stage("sft").model(), run.tokenizer()
    continued, answered = generate_texts(
        model,
        tokenizer,
        ["One day, Adam was", [Message("user", "Adam is at the zoo.\nWhere is Adam?")]],
        max_new_tokens=20,
    )
    assert continued and "zoo" in answered
    assert generate_texts(model, tokenizer, [""], temperature=1.0, seed=1) != generate_texts(
        model, tokenizer, [""], temperature=1.0, seed=2
    )


def test_a_function_is_called_once_with_the_controls_values(capsys):
    seen = []

    def doubled(beta: float = 0.5, steps: int = 3) -> None:
        seen.append((beta, steps))
        print("said")

    show_controls(doubled, beta=(0.0, 1.0, 0.1), steps=(1, 9))
    assert seen[0] == (0.5, 3)


def test_a_figure_that_is_returned_is_shown_under_its_controls(monkeypatch):
    controls: list[Any] = []
    shown: list[str] = []
    monkeypatch.setattr("IPython.display.display", controls.append)
    monkeypatch.setattr("ipywidgets.widgets.interaction.display", shown.append)
    show_controls(lambda beta=0.5: f"figure at {beta}", beta=(0.0, 1.0, 0.1))
    controls[0].kwargs_widgets[0].value = 0.7
    assert shown == ["figure at 0.5", "figure at 0.7"]
