"""A BIOSCAN HDF5 file from the published metadata and pictures."""

import csv
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.published import (
    DatasetName,
    IntArray,
    Published,
    read_published,
)
from projects.bioscan_clip.data_tools.reading import identity_of
from projects.bioscan_clip.data_tools.spool import Spool, remove_spool, spool_photos
from projects.bioscan_clip.data_tools.texts import DEFAULT_TOKENIZER, tokenize_taxa
from projects.bioscan_clip.data_tools.writing import PhotoLayout, SplitSource, write_file
from projects.bioscan_clip.datasets.schema import BARCODE

_PICTURES_LOOKED_AT = 200
_LISTED_IDS = ("sampleid", "processid")


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes
    ----------
    specimens : dict of str to int
        Specimens of each split.
    pictures : int
        Pictures in the file.
    seconds : float
        How long this call took.
    left_out : pathlib.Path or None
        The list of specimens that the file lacks, for want of a picture; None if it lacks none.
    n_left_out : int
        Their number.
    """

    specimens: Mapping[str, int]
    pictures: int
    seconds: float
    left_out: Path | None
    n_left_out: int


def build(
    dataset: DatasetName,
    root: Path,
    out: Path,
    image_package: str = "cropped_256",
    layout: PhotoLayout = "rows",
    processes: int | None = None,
    text_tokenizer: str = DEFAULT_TOKENIZER,
) -> Built:
    """Build a file, or go on building it after a kill.

    Pictures are copied as they are. A specimen whose picture is missing or does not decode is left
    out of the file and listed beside it.

    Parameters
    ----------
    dataset : {"1m", "5m"}
        BIOSCAN-1M in its CLIBD partition, or BIOSCAN-5M.
    root : pathlib.Path
        The folder in which `bioscan-dataset` keeps ``bioscan1m`` or ``bioscan5m``.
    out : pathlib.Path
        The HDF5 file. Pictures are collected beside it until it is complete.
    image_package : str, default="cropped_256"
        Which pictures: a folder of ``images``.
    layout : {"rows", "variable-length"}, default="rows"
        How photos are stored; see :func:`write_file`.
    processes : int, optional
        Processes that read pictures. Defaults to the number of cores.
    text_tokenizer : str, default="prajjwal1/bert-small"
        Hugging Face tokenizer of names: a folder, or a name on the hub.

    Returns
    -------
    Built
        Counts, and where the list of specimens without a picture is.

    Raises
    ------
    FileNotFoundError
        If metadata, partition, pictures or tokenizer are not there.
    ValueError
        If the metadata are not as published, no picture is of use, or an unfinished file is of
        another build.
    OSError
        If the disk has too little room.
    """
    start = time.monotonic()
    published = read_published(dataset, root, image_package)
    tokens = tokenize_taxa(published.names, text_tokenizer)
    identity = f"{dataset} {image_package} {identity_of(published.metadata)} {text_tokenizer}"
    paths = [published.photo_folder / photo for photo in published.photos]

    out.parent.mkdir(parents=True, exist_ok=True)
    photo_file, barcode_file = (
        out.with_name(f"{out.name}.{name}") for name in ("photos", "barcodes")
    )
    if not photo_file.exists():
        _check_room(paths, out.parent)
    photos, problems = spool_photos(paths, photo_file, identity, processes)
    left_out = _list_left_out(published, problems, out.with_name(f"{out.stem}.left_out.csv"))
    if len(problems) == len(published):
        remove_spool(photo_file)
        raise ValueError(
            f"None of the {len(published):,} pictures in {published.photo_folder} is of use; "
            f"{left_out} says why."
        )
    barcodes = _spool_barcodes(published, barcode_file)

    usable = photos.lengths > 0
    splits = {name: rows[usable[rows]] for name, rows in published.splits.items()}
    sources = {
        name: _source(rows, published, barcodes, tokens, photos) for name, rows in splits.items()
    }
    write_file(out, sources, identity=identity, layout=layout)
    remove_spool(photo_file)
    barcode_file.unlink()
    counts = {name: len(rows) for name, rows in splits.items()}
    seconds = time.monotonic() - start
    return Built(counts, int(usable.sum()), seconds, left_out, len(problems))


def print_built(built: Built, out: Path, console: Console | None = None) -> None:
    """Print the splits of a file, its size and what it lacks."""
    console = console or Console()
    table = Table(title=f"Specimens of {escape(out.name)}")
    table.add_column("split")
    table.add_column("specimens", justify="right")
    for name, specimens in built.specimens.items():
        table.add_row(name, f"{specimens:,}" if specimens else "[bold red]none[/]")
    console.print(table)
    console.print(
        f"Wrote {escape(str(out))}: {built.pictures:,} pictures, "
        f"{out.stat().st_size / 1e9:,.2f} GB, {built.pictures / built.seconds:,.0f} pictures/s",
        soft_wrap=True,
    )
    if built.left_out is not None:
        console.print(
            f"[bold]Left out {built.n_left_out:,} specimens[/] whose picture is missing or does "
            f"not decode: {escape(str(built.left_out))}",
            soft_wrap=True,
        )


def _check_room(paths: list[Path], folder: Path) -> None:
    """Estimate from some pictures what all of them take, before days are spent on reading them."""
    looked_at = paths[:: max(1, len(paths) // _PICTURES_LOOKED_AT)]
    sizes = [path.stat().st_size for path in looked_at if path.is_file()]
    needed = int(np.mean(sizes or [0]) * len(paths))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The pictures take about {needed:,} bytes, but the disk of {folder} has {free:,} "
            "free. Make room, or write to another disk."
        )


def _list_left_out(published: Published, problems: Mapping[int, str], path: Path) -> Path | None:
    path.unlink(missing_ok=True)
    if not problems:
        return None
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_LISTED_IDS, "picture", "reason"])
        for place, reason in sorted(problems.items()):
            ids = (
                published.identifiers[name][place].decode() for name in ("sampleid", "processid")
            )
            writer.writerow([*ids, published.photo_folder / published.photos.iloc[place], reason])
    return path


def _spool_barcodes(published: Published, path: Path) -> Spool:
    lengths = []
    with path.open("wb") as file:
        for barcodes in published.read_barcodes():
            lengths += [file.write(barcode) for barcode in barcodes]
    return Spool(path, np.array(lengths, dtype=np.int64))


def _source(
    rows: IntArray,
    published: Published,
    barcodes: Spool,
    tokens: tuple[dict[str, IntArray], IntArray],
    photos: Spool,
) -> SplitSource:
    """Return the specimens of one split."""
    distinct_tokens, token_rows = tokens
    barcode_dtype = np.dtype(f"S{max(1, int(barcodes.lengths.max(initial=1)))}")

    def read(block: slice) -> dict[str, npt.NDArray[Any]]:
        chosen = rows[block]
        texts = [barcode.tobytes() for barcode in barcodes.read(chosen)]
        return {
            BARCODE: np.array(texts, dtype=barcode_dtype),
            **{name: column[chosen] for name, column in published.identifiers.items()},
            **{name: each.distinct[each.codes[chosen]] for name, each in published.names.items()},
            **{name: table[token_rows[chosen]] for name, table in distinct_tokens.items()},
        }

    return SplitSource(
        len(rows),
        {name: (values.dtype, values.shape[1:]) for name, values in read(slice(0, 0)).items()},
        read,
        photos.lengths[rows],
        lambda block: photos.read(rows[block]),
    )
