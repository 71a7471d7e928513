"""Check a BIOSCAN HDF5 file: what is wrong, where, and what to do about it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from projects.bioscan_clip.data_tools.checks.barcodes import check_barcodes
from projects.bioscan_clip.data_tools.checks.columns import IntArray
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem, Subject
from projects.bioscan_clip.data_tools.checks.labels import (
    check_lineages,
    check_names,
    check_ranks,
)
from projects.bioscan_clip.data_tools.checks.layout import (
    check_columns,
    check_splits,
    nearest_layout,
)
from projects.bioscan_clip.data_tools.checks.membership import (
    check_ids,
    check_membership,
    check_species,
)
from projects.bioscan_clip.data_tools.checks.photos import (
    check_lengths,
    choose_photos,
    decode_photos,
    photo_blocks,
)
from projects.bioscan_clip.data_tools.checks.tokens import (
    check_names_against_tokens,
    check_tokens,
    names_and_tokens,
)
from projects.bioscan_clip.data_tools.verify_report import Report, SplitReport
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
from projects.bioscan_clip.datasets.taxonomy import encode_column

PHOTOS_PER_SPLIT = 1000

_SAMPLE_ID = IDENTIFIERS[0]
_SEED = 0


@dataclass
class _Split:
    """Columns of a split that can be checked, and their codes."""

    columns: dict[str, h5py.Dataset]
    report: SplitReport
    ids: IntArray | None = None
    labels: IntArray | None = None
    names: pd.DataFrame | None = None

    def has(self, *names: str) -> bool:
        return self.report.rows > 0 and all(name in self.columns for name in names)


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
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, is incomplete, or is being written by another program.
    OSError
        If it cannot be read to its end.
    """
    path = path.expanduser()
    with open_file(path) as file, _progress() as progress:
        groups, findings = check_splits(file)
        layout = nearest_layout(set(groups))
        splits = {}
        for name, group in groups.items():
            columns, rows, found = check_columns(name, group)
            splits[name] = _Split(columns, SplitReport(rows, {"layout": rows}))
            findings += found
        task = progress.add_task("Columns", total=sum(each.report.rows for each in splits.values()))
        for name, split in splits.items():
            findings += _check_rows(name, split)
            progress.advance(task, split.report.rows)
        findings += _check_across(layout, splits)
        findings += _check_photos(path, splits, photos, processes, progress)
    reports = {name: split.report for name, split in splits.items()}
    findings.sort(key=lambda finding: finding.severity)
    return Report(path, path.stat().st_size, layout, reports, findings)


def _check_rows(name: str, split: _Split) -> Iterator[Finding]:
    """Check each row of a split, and keep the codes that comparing splits needs."""
    columns, rows = split.columns, split.report.rows
    checked: list[Subject] = []
    if split.has(*RANKS):
        split.labels = np.empty((rows, len(RANKS)), dtype=np.int64)
        for position, rank in enumerate(RANKS):
            split.labels[:, position] = encode_column(columns[rank])
        yield from check_ranks(name, split.labels)
        yield from check_names(name, columns)
        checked.append("labels")
    if split.has(_SAMPLE_ID):
        split.ids = encode_column(columns[_SAMPLE_ID])
        yield from check_ids(name, split.ids)
        checked.append("splits")
    if split.has(BARCODE):
        yield from check_barcodes(name, columns)
        checked.append("barcodes")
    if split.has(TEXT_IDS, TEXT_MASK):
        yield from check_tokens(name, columns)
        checked.append("tokens")
        if split.labels is not None:
            split.names = names_and_tokens(columns[TEXT_IDS], split.labels)
    split.report.checked |= dict.fromkeys(checked, rows)


def _check_across(layout: str, splits: dict[str, _Split]) -> Iterator[Finding]:
    """Check what only shows when splits are compared."""
    columns = {name: split.columns for name, split in splits.items()}
    labels = {name: each.labels for name, each in splits.items() if each.labels is not None}
    yield from check_lineages(columns, labels)
    yield from check_species(columns, {name: codes[:, -1] for name, codes in labels.items()})
    ids = {name: split.ids for name, split in splits.items() if split.ids is not None}
    yield from check_membership(layout, ids)
    names = {name: split.names for name, split in splits.items() if split.names is not None}
    yield from check_names_against_tokens(columns, names)


def _check_photos(
    path: Path,
    splits: dict[str, _Split],
    photos: int | None,
    processes: int | None,
    progress: Progress,
) -> Iterator[Finding]:
    blocks = []
    for name, split in splits.items():
        if split.has(IMAGE, IMAGE_LENGTH):
            yield from check_lengths(name, split.columns)
            rows = choose_photos(split.columns, photos, _SEED)
            split.report.checked["photos"] = len(rows)
            blocks += photo_blocks(name, rows)
    task = progress.add_task("Photos", total=sum(len(block.rows) for block in blocks))
    bad: defaultdict[tuple[str, Problem], list[IntArray]] = defaultdict(list)
    for block, found in zip(blocks, decode_photos(path, blocks, processes), strict=True):
        for problem, wrong in found.items():
            bad[block.split, problem].append(wrong)
        progress.advance(task, len(block.rows))
    for (name, problem), wrong_rows in bad.items():
        yield from problem.at(name, np.concatenate(wrong_rows))


class _Rate(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
