"""``labkit report RUN``: write a run's report again, and print its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.commands.options import RunFolder, parse_options


@dataclass(frozen=True)
class ReportOptions:
    """Write a run's report.html again and print its metrics."""

    run: RunFolder
    """The run's folder."""


def command(arguments: list[str]) -> int:
    """`labkit report`: its exit code."""
    options = parse_options(ReportOptions, "report", arguments)
    from labkit.reporting.page import write_report
    from labkit.reporting.terminal import format_run_metrics

    written = write_report(options.run)
    print(f"{format_run_metrics(options.run)}\n\nThe whole report: {written}")
    return 0
