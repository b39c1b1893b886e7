"""What the notebooks share: training with a bar, a run to start from, answers of a model, sliders over a function."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm.auto import tqdm

from labkit.paths import demo_folder
from labkit.reporting.terminal import format_finding, format_stage_headline
from labkit.text.reading.report import format_reading_lines

if TYPE_CHECKING:
    import torch

    from labkit.model.transformer import Transformer
    from labkit.runs.folder import Run
    from labkit.runs.pipeline import Progress
    from labkit.text.tokenizer import Tokenizer
    from labkit.training.config import BatchSource, Evaluate, Objective, TrainConfig
    from labkit.world import Message

T = TypeVar("T")


def notebook_preset() -> str:
    """The preset that the notebooks are executed at: that of the environment variable LABKIT_PRESET, else smoke."""
    return os.environ.get("LABKIT_PRESET", "smoke")


def at_preset(*, smoke: T, lab: T) -> T:
    """One of two settings: a short one for the preset smoke, and one that takes longer for any other."""
    return smoke if notebook_preset() == "smoke" else lab


def train(
    model: torch.nn.Module,
    source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    seed: int = 0,
    label: str = "training",
) -> list[dict[str, Any]]:
    """`labkit.training.loop.fit` to its end with a bar; returns its records as the figures take them.

    The model is trained in place; nothing is written. Raises LabError as `fit` does.
    """
    from labkit.training.loop import fit

    records = []
    with tqdm(total=config.steps, desc=label) as bar:
        for record in fit(model, source, objective, config, evaluate=evaluate, seed=seed):
            records.append(record.to_dict())
            bar.set_postfix_str(f"loss {record.loss:.3f}", refresh=False)
            bar.update()
    return records


def shipped_run() -> Run:
    """The finished run that comes with labkit (preset lab, all five stages): a trained model without any training."""
    from labkit.runs.folder import Run

    return Run.open(demo_folder())


def generate_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[Message]],
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 60,
    seed: int = 0,
) -> list[str]:
    """What a model writes after each prompt: the continuation of a text (str), or the answer to messages.

    temperature: 0 is greedy. Texts end at a special token, or after max_new_tokens.
    """
    import torch

    from labkit.decoding import Temperature, generate
    from labkit.text.chat import decode_reply, encode_prompt, encode_text_prompt

    encoded = [
        encode_text_prompt(tokenizer, prompt) if isinstance(prompt, str) else encode_prompt(tokenizer, prompt)
        for prompt in prompts
    ]
    written = generate(
        model,
        encoded,
        filters=[Temperature(temperature)],
        max_new_tokens=max_new_tokens,
        stop_ids=tokenizer.special_token_ids,
        generator=torch.Generator().manual_seed(seed),
    )
    return [decode_reply(tokenizer, ids).strip() for ids in written]


def show_controls(function: Callable[..., Any], **controls: Any) -> None:
    """Call a function once with the controls' first values, then show sliders over it.

    controls: by the function's parameters, a widget of ipywidgets or (least, most, step). The function prints, or
    returns a figure. It is called once because callbacks never fire where a notebook is only executed; what it prints
    then is left out, as the sliders show it again.
    """
    import ipywidgets as widgets
    from IPython.display import display

    shown = widgets.interactive(function, {"auto_display": True}, **controls)  # a figure is returned, not displayed
    for control in shown.kwargs_widgets:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False
    with contextlib.redirect_stdout(io.StringIO()):
        function(**{control._kwarg: control.value for control in shown.kwargs_widgets})
    display(shown)


def show_progress(events: Iterable[Progress]) -> None:
    """Let a run proceed to its end, with a bar for the steps of each stage and a line for its result.

    The events are those of `labkit.runs.pipeline.run`; what a stage measured is then in its folder.
    """
    bar: tqdm | None = None
    for event in events:
        if event.phase == "train" and event.record is not None:
            bar = bar or tqdm(total=event.total_steps, initial=event.steps_done - 1, desc=event.stage)
            bar.set_postfix_str(f"loss {event.record.loss:.3f}", refresh=False)
            bar.update(event.steps_done - bar.n)
            continue
        if event.phase == "advice" and event.result is not None:
            tqdm.write(f"{event.stage}, {format_finding(event.result)}")
            continue
        if bar is not None:
            bar.close()
            bar = None
        if event.phase == "read" and event.result is not None:
            print(f"{event.stage}: {' '.join(format_reading_lines(event.result))}")
        elif event.result is not None:
            skipped = " (already finished)" * (event.phase == "skipped")
            print(f"{event.stage}: {format_stage_headline(event.result)}{skipped}")
