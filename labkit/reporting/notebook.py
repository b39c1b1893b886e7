"""What the notebooks share: a bar that follows a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from labkit.reporting.terminal import format_stage_headline
from labkit.text.reading.report import format_reading_lines

if TYPE_CHECKING:
    from labkit.runs.pipeline import Progress


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
        if bar is not None:
            bar.close()
            bar = None
        if event.phase == "read" and event.result is not None:
            print(f"{event.stage}: {' '.join(format_reading_lines(event.result))}")
        elif event.result is not None:
            skipped = " (already finished)" * (event.phase == "skipped")
            print(f"{event.stage}: {format_stage_headline(event.result)}{skipped}")
