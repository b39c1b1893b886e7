"""A run as seen from a terminal: progress with the time left, a line for each finished stage, and a way out."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from labkit.errors import count_with_noun
from labkit.evaluation.metrics import MetricSpec
from labkit.launcher import launched_process_count, local_process_count
from labkit.reporting.metrics import BY_KIND, HEADLINES, metric_spec
from labkit.runs.imports import import_flags

if TYPE_CHECKING:
    from labkit.runs.pipeline import Progress


PASSED_ON_SECONDS = 5
"""So soon after the first, a signal to one of several processes is the first one again."""


class StopRequest:
    """Set by the first ctrl-C, or SIGTERM, while steps are taken, so that the run ends between two of them; see
    ``stop_on_interrupt``. signal: which of the two it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self.asked_at = 0.0
        self.stepping = False
        self.signal: int = signal.SIGINT

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self.asked and _passed_on() and time.monotonic() - self.asked_at < PASSED_ON_SECONDS:
            return
        if self.asked or not self.stepping:
            raise KeyboardInterrupt
        self.asked, self.asked_at = True, time.monotonic()
        print("\nStopping after this step; press again to stop at once.", file=sys.stderr)


def _passed_on() -> bool:
    """Whether a launcher passes on signals that a terminal or a batch system has sent to each process already."""
    return launched_process_count() > 1


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Let ctrl-C and SIGTERM, which batch systems send, set a StopRequest; the way they were handled before comes back
    afterwards. Only the main thread can do it.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_with_progress(
    events: Generator[Progress, None, None], folder: Path, resume_arguments: Callable[[], Sequence[str]]
) -> int:
    """Follow a run to its end and write its report; returns the exit code.

    ctrl-C, or SIGTERM, leaves a run that can be resumed, says that the command with the arguments
    ``resume_arguments()`` does so, and gives 130, or 143. When there are several processes, only the main one speaks.
    """
    from labkit.reporting.page import write_report
    from labkit.training.processes import accelerator

    speaks = accelerator().is_main_process
    with stop_on_interrupt() as stop:
        try:
            stopped = _follow(events, stop, speaks)
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        if speaks:
            print(f"Stopped. To resume: {_command(resume_arguments())}", file=sys.stderr)
        return 128 + stop.signal
    quoted = shlex.quote(str(folder))
    if speaks and (folder / "report.json").is_file():
        print(
            f"\n{format_run_metrics(folder)}\n\nThe whole report: {write_report(folder)}\nTo talk to it: "
            f"labkit chat {quoted}"
        )
    return 0


def follow_run(events: Generator[Progress, None, None]) -> None:
    """Show a run's progress to its end. Raises KeyboardInterrupt when ctrl-C, or SIGTERM, stopped it: what was done is
    kept, and the run can be resumed.
    """
    from labkit.training.processes import accelerator

    with stop_on_interrupt() as stop:
        if _follow(events, stop, accelerator().is_main_process):
            raise KeyboardInterrupt


def _command(arguments: Sequence[str]) -> str:
    """The line that begins labkit with these arguments, on as many processes as now."""
    from labkit.training.processes import accelerator, parallel_config

    count, here = accelerator().num_processes, local_process_count()
    nodes = f"--nnodes {count // here} … " if here < count else ""
    launch = f"torchrun {nodes}--nproc-per-node {here} -m labkit" if count > 1 else "labkit"
    device = os.environ.get("LABKIT_DEVICE")
    flags = [*parallel_config().command_line_flags(), *(["--device", device] if device else []), *import_flags()]
    return f"{launch} {shlex.join([*arguments, *flags])}"


def _follow(events: Generator[Progress, None, None], stop: StopRequest, speaks: bool) -> bool:
    """Show events until they end, or until the user stops them: then True."""
    from labkit.training.processes import on_any_process

    bar: tqdm | None = None
    try:
        for event in events:
            stop.stepping = event.phase == "train" and event.steps_done < event.total_steps
            if event.phase == "train" and event.record is not None:
                bar = bar or _bar(event, speaks)
                bar.set_postfix_str(f"loss {event.record.loss:.3f}", refresh=False)
                bar.update(event.steps_done - bar.n)
            elif event.phase == "advice" and event.result is not None:
                if speaks:
                    tqdm.write(f"{event.stage:9} {format_finding(event.result)}", file=sys.stderr)
            else:
                _close(bar)
                bar = None
                _say(event, speaks)
            if event.phase == "train" and on_any_process(stop.asked):
                _stop_all(events)
                return True
    finally:
        _close(bar)
    return False


def _stop_all(events: Generator[Progress, None, None]) -> None:
    """End a run after the step that every process has just taken; `fit` saves a checkpoint of it."""
    from labkit.training.config import StopTraining

    with suppress(StopTraining):
        events.throw(StopTraining())


def _bar(event: Progress, speaks: bool) -> tqdm:
    shape = "{desc} {percentage:3.0f} % |{bar:24}| step {n_fmt} of {total_fmt}{postfix}, {remaining} left"
    return tqdm(
        total=event.total_steps,
        initial=event.steps_done - 1,
        desc=f"{event.stage:9}",
        bar_format=shape,
        disable=not speaks,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        file=sys.stderr,
    )


def _close(bar: tqdm | None) -> None:
    if bar is not None:
        bar.close()


def _say(event: Progress, speaks: bool) -> None:
    """One line for what is no step."""
    if not speaks:
        return
    text = ""
    if event.phase == "read" and event.result is not None:
        from labkit.text.reading.report import format_reading_lines

        text = f"\n{' ':10}".join(format_reading_lines(event.result))
    elif event.stage == "tokenizer":
        text = "training on the text"
    elif event.phase == "prepare":
        text = count_with_noun(event.total_steps, "step")
    elif event.phase == "evaluate":
        text = "evaluating"
    elif event.phase == "skipped":
        text = "already finished"
    elif event.result is not None:
        text = format_stage_headline(event.result)
    print(f"{event.stage:9} {text}", file=sys.stderr)


def format_finding(finding: Mapping[str, Any]) -> str:
    """What the doctor found, in a line: "step 10, warning: All answers of the last 5 rollouts …"."""
    if finding["is_warning"]:
        return f"step {finding['step']}, warning: {finding['message']}"
    return f"step {finding['step']}: {finding['message']}"


def format_stage_headline(stage_result: dict[str, Any]) -> str:
    """A stage's result in a line: "accuracy 78.0 %, validation loss 0.812, 61 s"."""
    metrics = stage_result["metrics"]
    named = {name: metric_spec(name, stage_result["stage"]) for name in HEADLINES if name in metrics}
    shown = [f"{known.label} {known.format(metrics[name])}" for name, known in named.items()]
    return ", ".join([*shown, f"{stage_result['seconds']:.0f} s"])


def format_run_metrics(folder: Path) -> str:
    """The metrics of a run's stages as two tables, a column a stage: all together, and by question type.

    Raises LabError when there is no report.
    """
    from labkit.runs.folder import Run

    stages = Run.open(folder).report()["stages"]
    names = list(dict.fromkeys(name for stage in stages for name in stage["metrics"]))
    heads = [stage["stage"] for stage in stages]
    rows = [
        ["", *heads],
        *(row for name in names if not name.startswith(BY_KIND) for row in metric_table_rows(name, stages)),
    ]
    rows.append(["seconds", *(f"{stage['seconds']:.1f}" for stage in stages)])
    kinds = [name.partition("/")[2] for name in names if name.startswith("accuracy/")]
    said = format_claims(stages)
    if not kinds:
        return f"{align_columns(rows)}\n\n{said}"
    by_kind = [["accuracy by question type", *heads, "without the story"]]
    by_kind += [[kind.replace("_", " "), *_of_kind(kind, stages)] for kind in kinds]
    return f"{align_columns(rows)}\n\n{align_columns(by_kind)}\n\n{said}"


def format_claims(stage_results: Sequence[dict[str, Any]]) -> str:
    """What each stage had to beat, a line each, and how gold changed."""
    from labkit.stages import gold_change_in_words, stage_claims

    lines = [str(claim) for claim in stage_claims(stage_results)]
    gold = {stage["stage"]: gold_change_in_words(stage["metrics"]) for stage in stage_results}
    return "\n".join([*lines, *(f"{name}: {words}" for name, words in gold.items() if words)])


def metric_table_rows(metric: str, stage_results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The values of one name, in a row for each thing that it stands for: nats of tokens are not nats of pairs."""
    known = [metric_spec(metric, stage["stage"]) for stage in stage_results]
    values = [stage["metrics"].get(metric) for stage in stage_results]
    titles = dict.fromkeys(label_with_unit(one) for one, value in zip(known, values, strict=True) if value is not None)
    return [
        [
            title,
            *(
                _shown(one, value) if label_with_unit(one) == title else ""
                for one, value in zip(known, values, strict=True)
            ),
        ]
        for title in titles
    ]


def label_with_unit(spec: MetricSpec) -> str:
    """A metric's label, with its unit where the values do not show it: "validation loss (nats per token)"."""
    return f"{spec.label} ({spec.unit})" if " " in spec.unit or spec.unit in ("nats", "bits") else spec.label


def _shown(known: MetricSpec, value: float | None) -> str:
    return "" if value is None else known.format(value)


def _of_kind(kind: str, stages: Sequence[dict[str, Any]]) -> list[str]:
    shares = [stage["metrics"].get(f"accuracy/{kind}") for stage in stages]
    alone = [stage["metrics"].get(f"question_only/{kind}") for stage in stages]
    shares.append(next((share for share in reversed(alone) if share is not None), None))  # of who measured it last
    return ["" if share is None else f"{100 * share:.0f} %" for share in shares]


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
