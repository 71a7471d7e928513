"""Check a BIOSCAN HDF5 file: what is wrong, where, and what to do about it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.checks.columns import (
    check_columns,
    check_published,
    check_splits,
    check_values,
    nearest_layout,
)
from projects.bioscan_clip.data_tools.checks.finding import (
    HDF5_ERRORS,
    Finding,
    Severity,
    Subject,
)
from projects.bioscan_clip.data_tools.checks.photos import check_photos, choose_photos
from projects.bioscan_clip.data_tools.checks.splits import Split, compare_splits, read_codes
from projects.bioscan_clip.data_tools.printing import shown, table_of_splits
from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    IDENTIFIERS,
    IMAGE,
    IMAGE_LENGTH,
    RANKS,
    TEXT_IDS,
    TEXT_MASK,
)
from projects.bioscan_clip.files import progress, write_whole

PHOTOS_PER_SPLIT = 1000

_SEED = 0
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
    path, size
        The file, and how many bytes it has.
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
        return sum(finding.severity == severity for finding in self.findings)

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


def verify(
    path: Path, photos: int | None = PHOTOS_PER_SPLIT, processes: int | None = None
) -> Report:
    """Check a file.

    Memory grows with the number of rows, by about 50 bytes for each.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    photos : int, optional
        How many photos to decode of each split, chosen at random but always the same; None for all.
    processes : int, optional
        Processes that decode photos. Defaults to the number of available cores.

    Returns
    -------
    Report
        What was checked and found.

    Raises
    ------
    FileNotFoundError, ValueError
        If it cannot be opened; see :func:`~projects.bioscan_clip.datasets.hdf5.open_file`.
    OSError
        If a process that decodes photos is killed.
    """
    path = path.expanduser()
    with open_file(path) as file:
        groups, findings = check_splits(file)
        layout = nearest_layout(set(groups))
        splits = {}
        for name, group in groups.items():
            columns, rows, found = check_columns(name, group)
            splits[name] = Split(name, columns, rows)
            findings += found
        rows_of = {name: split.rows for name, split in splits.items()}
        findings += check_published(path.name, path.stat().st_size, rows_of)
        with progress("Checking rows", sum(rows_of.values())) as advance:
            for split in splits.values():
                findings += _finished(_check_rows(split), split.name)
                advance(split.rows)
        findings += _finished(compare_splits(layout, list(splits.values())))
        chosen = {
            name: choose_photos(split.columns, photos, _SEED)
            for name, split in splits.items()
            if split.has(IMAGE, IMAGE_LENGTH)
        }
    reports = {name: SplitReport(split.rows, _checked(split)) for name, split in splits.items()}
    for name, which in chosen.items():
        reports[name].checked["photos"] = len(which)
    findings += check_photos(path, chosen, processes)
    findings.sort(key=lambda finding: finding.severity)
    return Report(path, path.stat().st_size, layout, reports, findings)


def _finished(findings: Iterable[Finding], split: str | None = None) -> Iterator[Finding]:
    """Yield findings, the last of them that the file cannot be read, where that is so."""
    try:
        yield from findings
    except HDF5_ERRORS as error:
        remedy = "build or download the file again"
        yield Finding("layout", "error", f"it cannot be read ({error})", remedy, split)


def _check_rows(split: Split) -> Iterator[Finding]:
    if split.rows:
        yield from check_values(split.name, split.columns)
        yield from read_codes(split)


def _checked(split: Split) -> dict[Subject, int]:
    """Return how many rows of each subject but photos were checked."""
    subjects: dict[Subject, bool] = {
        "layout": True,
        "labels": split.has(*RANKS),
        "splits": split.has(IDENTIFIERS[0]),
        "barcodes": split.has(BARCODE),
        "tokens": split.has(TEXT_IDS, TEXT_MASK),
    }
    return {subject: split.rows for subject, was_checked in subjects.items() if was_checked}


def save_report(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    text = json.dumps(report.as_json(), indent=1) + "\n"
    write_whole(path, lambda unfinished: unfinished.write_text(text, "utf-8"))


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what was checked of each split, then each finding and what to do about it."""
    console = console or Console()
    name = shown(str(report.path))
    console.print(f"[bold]{name}[/], {report.size / 1e6:,.0f} MB, splits of {report.layout}")
    console.print(_table(report))
    findings = Table.grid(padding=(0, 2))
    for finding in report.findings:
        findings.add_row(
            f"[{_STYLES[finding.severity]}]{finding.severity}[/]",
            f"[bold]{shown(finding.place)}[/]: {shown(finding.sentence)} "
            f"[dim]To do: {escape(finding.remedy)}.[/]",
        )
    if report.findings:
        console.print(findings)
    counts = sorted(Counter(finding.severity for finding in report.findings).items())
    listed = ", ".join(f"{count} {severity}{'s'[: count != 1]}" for severity, count in counts)
    console.print(f"{listed or 'Nothing wrong'} in {name}.")


def _table(report: Report) -> Table:
    subjects = get_args(Subject)
    rows = (
        (name, [f"{split.rows:,}", *(_cell(report, name, subject) for subject in subjects)])
        for name, split in report.splits.items()
    )
    return table_of_splits(["rows", *subjects], rows)


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
