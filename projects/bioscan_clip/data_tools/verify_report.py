"""What a check of a file leaves behind: a table, sentences, and a JSON file."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.checks.finding import Finding, Severity, Subject

_STYLES = {"error": "bold red", "warning": "yellow"}
_SHORT = {"error": "wrong", "warning": "odd"}


@dataclass
class SplitReport:
    """What was checked of one split.

    Attributes
    ----------
    rows : int
        Number of specimens.
    checked : dict of str to int
        For each subject that could be checked, the number of rows looked at.
    """

    rows: int
    checked: dict[Subject, int] = field(default_factory=dict)


@dataclass
class Report:
    """What a check of a file found.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    size : int
        Its bytes.
    layout : str
        The published file whose splits are most like its: ``BIOSCAN-1M`` or ``BIOSCAN-5M``.
    splits : dict of str to SplitReport
        What was checked of each split.
    findings : list of Finding
        What is wrong, errors first.
    """

    path: Path
    size: int
    layout: str
    splits: dict[str, SplitReport]
    findings: list[Finding]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return Counter(finding.severity for finding in self.findings)[severity]

    def as_json(self) -> dict[str, Any]:
        """Return everything as what the `json` module can write."""
        return {
            "file": str(self.path),
            "bytes": self.size,
            "layout": self.layout,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }


def save_report(report: Report, path: Path) -> None:
    """Write a report as JSON; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what was checked of each split, then each finding and what to do about it."""
    console = console or Console()
    console.print(
        f"[bold]{escape(str(report.path))}[/], {report.size / 1e6:,.0f} MB, "
        f"splits of {report.layout}"
    )
    console.print(_table(report))
    findings = Table.grid(padding=(0, 2))
    for finding in report.findings:
        style = _STYLES[finding.severity]
        findings.add_row(
            f"[{style}]{finding.severity}[/]",
            f"[bold]{escape(finding.place)}[/]: {escape(finding.sentence)} "
            f"[dim]To do: {escape(finding.remedy)}.[/]",
        )
    if report.findings:
        console.print(findings)
    console.print(f"{_counted(report.findings) or 'Nothing wrong'} in {escape(str(report.path))}.")


def _table(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("split", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    subjects = get_args(Subject)
    for subject in subjects:
        table.add_column(subject)
    for name, split in report.splits.items():
        cells = [_cell(report, name, subject) for subject in subjects]
        table.add_row(escape(name), f"{split.rows:,}", *cells)
    return table


def _cell(report: Report, split: str, subject: Subject) -> str:
    """Return what is worst there, else what was checked."""
    here = [each for each in report.findings if (each.split, each.subject) == (split, subject)]
    if here:
        worst = min(each.severity for each in here)
        number = sum(each.severity == worst for each in here)
        return f"[{_STYLES[worst]}]{number} {_SHORT[worst]}[/]"
    checked = report.splits[split].checked.get(subject)
    if checked is None:
        return "[dim]-[/]"
    # Of photos, a sample may stand for all.
    return f"[green]{checked:,} ok[/]" if subject == "photos" else "[green]ok[/]"


def _counted(findings: list[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(
        f"{count} {severity}{'s'[: count != 1]}" for severity, count in sorted(counts.items())
    )
