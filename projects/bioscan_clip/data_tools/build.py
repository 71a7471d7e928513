"""A BIOSCAN HDF5 file from the published metadata and pictures.

Pictures are read twice: first all of them, to see which decode and how long the longest is, then
for the file, so that no second copy of them is kept.
"""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.markup import escape

from projects.bioscan_clip.data_tools.checks.photos import check_picture
from projects.bioscan_clip.data_tools.printing import table_of_splits
from projects.bioscan_clip.data_tools.processes import processes_for
from projects.bioscan_clip.data_tools.published import (
    DatasetName,
    IntArray,
    Published,
    read_published,
)
from projects.bioscan_clip.data_tools.writing import (
    SplitSource,
    add_to_journal,
    identity_of,
    read_journal,
    write_file,
)
from projects.bioscan_clip.datasets.names import TaxonTokenizer
from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.files import check_output, progress, write_whole

_PICTURES_LOOKED_AT = 200
_BLOCK = 4096
_AT_ONCE = 64
_READERS = 16  # threads that wait for the disk


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes
    ----------
    specimens : dict of str to int
        Specimens of each split.
    pictures : int
        Pictures in the file.
    left_out : pathlib.Path or None
        The list of specimens that the file lacks since they have no picture; None if it lacks none.
    n_left_out : int
        Their number.
    """

    specimens: Mapping[str, int]
    pictures: int
    left_out: Path | None
    n_left_out: int


def build(
    dataset: DatasetName,
    root: Path,
    out: Path,
    image_package: str = "cropped_256",
    processes: int | None = None,
    text_tokenizer: str = "prajjwal1/bert-small",
    force: bool = False,
) -> Built:
    """Build a file, or resume building it after a kill.

    Pictures are copied as they are. A specimen whose picture is missing or does not decode is left
    out of the file and listed beside it.

    Parameters
    ----------
    dataset : {"1m", "5m"}
        BIOSCAN-1M in its CLIBD partition, or BIOSCAN-5M.
    root : pathlib.Path
        The folder in which `bioscan-dataset` keeps ``bioscan1m`` or ``bioscan5m``.
    out : pathlib.Path
        The HDF5 file.
    image_package : str, default="cropped_256"
        Which pictures: a folder of ``images``.
    processes : int, optional
        Processes that check pictures. Defaults to the number of cores.
    text_tokenizer : str, default="prajjwal1/bert-small"
        Hugging Face tokenizer of names: a folder, or a name on the hub.
    force : bool, default=False
        Whether an existing file may be replaced.

    Returns
    -------
    Built
        Counts, and where the list of specimens without a picture is.

    Raises
    ------
    FileNotFoundError
        If metadata, partition, pictures or tokenizer are not there.
    FileExistsError
        If `out`, or the list beside it, is there, and not `force`.
    ValueError
        If the metadata are not as published, no picture is of use, or an unfinished file is of
        another build.
    OSError
        If the disk has too little room, or a process is killed.
    """
    left_out = out.with_name(f"{out.stem}.left_out.csv")
    journal = out.with_name(f"{out.name}.pictures.json")
    inputs = [*root.glob("bioscan?m/*"), *root.glob("bioscan1m/CLIBD*/*")]
    check_output(out, inputs, force)
    check_output(left_out, inputs, force or journal.exists())
    published = read_published(dataset, root, image_package)
    tokens = _tokenize(published.table[list(RANKS)], text_tokenizer)
    identity = f"{dataset} {image_package} {identity_of(published.metadata)} {text_tokenizer}"
    out.parent.mkdir(parents=True, exist_ok=True)
    if not journal.exists():
        _check_room(published, out.parent)
    checked = _check_pictures(published, journal, identity, processes)
    lengths = np.array([0 if isinstance(each, str) else each for each in checked], dtype=np.int64)
    usable = lengths > 0
    if not usable.any():
        journal.unlink()
        raise ValueError(
            f"None of the {len(published):,} pictures in {published.photo_folder} is of use: "
            f"{published.table['photo'].iloc[0]} {checked[0]}."
        )
    if not usable.all():
        lacking = published.table.loc[~usable, list(IDENTIFIERS[:2])].assign(
            picture=[str(path) for path in published.paths(np.flatnonzero(~usable))],
            reason=[each for each in checked if isinstance(each, str)],
        )
        write_whole(left_out, partial(lacking.to_csv, index=False))
    rows = {name: rows[usable[rows]] for name, rows in published.splits.items()}
    texts = published.table.drop(columns="photo")
    widths = {str(name): _longest(column) for name, column in texts.items()}
    with ThreadPoolExecutor(_READERS) as readers:
        read_pictures = partial(_read_pictures, readers, published, lengths, journal)
        sources = {
            name: _source(chosen, texts, widths, tokens, lengths, read_pictures)
            for name, chosen in rows.items()
        }
        write_file(out, sources, identity=identity)
    journal.unlink()
    counts = {name: len(chosen) for name, chosen in rows.items()}
    n_left_out = int((~usable).sum())
    return Built(counts, int(usable.sum()), left_out if n_left_out else None, n_left_out)


def print_built(built: Built, out: Path, console: Console | None = None) -> None:
    """Print the splits of a file, its size and what it lacks."""
    console = console or Console()
    rows = (
        (name, [f"{specimens:,}" if specimens else "[bold red]none[/]"])
        for name, specimens in built.specimens.items()
    )
    console.print(table_of_splits(["specimens"], rows))
    console.print(
        f"Wrote {escape(str(out))}: {built.pictures:,} pictures, "
        f"{out.stat().st_size / 1e9:,.2f} GB",
        soft_wrap=True,
    )
    if built.left_out is not None:
        console.print(
            f"[bold]Left out {built.n_left_out:,} specimens[/] whose picture is missing or does "
            f"not decode: {escape(str(built.left_out))}",
            soft_wrap=True,
        )


def _check_room(published: Published, folder: Path) -> None:
    """Estimate from some pictures what all of them take, before days are spent on reading them."""
    some = np.arange(0, len(published), max(1, len(published) // _PICTURES_LOOKED_AT))
    looked_at = published.paths(some)
    sizes = [path.stat().st_size for path in looked_at if path.is_file()]
    needed = int(np.mean(sizes or [0]) * len(published))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The pictures take about {needed:,} bytes, but the disk of {folder} has {free:,} "
            "free. Make room, or write to another disk."
        )


def _check_pictures(
    published: Published, journal: Path, identity: str, processes: int | None
) -> list[int | str]:
    """Return the length in bytes of each picture, or why it is of no use.

    The journal keeps what earlier calls found.
    """
    checked = [each for step in read_journal(journal, identity) for each in step]
    with (
        processes_for("checked pictures", processes) as pool,
        progress("Checking pictures", len(published) - len(checked)) as advance,
    ):
        while len(checked) < len(published):
            block = np.arange(len(checked), min(len(checked) + _BLOCK, len(published)))
            found = list(pool.map(check_picture, published.paths(block), chunksize=_AT_ONCE))
            add_to_journal(journal, found)
            checked += found
            advance(len(block))
    return checked


def _longest(texts: "pd.Series[Any]") -> int:
    """Return the bytes of the longest text of a column, at least one."""
    return max(1, max(len(str(text).encode()) for text in texts.unique()))


def _read_pictures(
    readers: ThreadPoolExecutor,
    published: Published,
    lengths: IntArray,
    journal: Path,
    specimens: IntArray,
) -> list[npt.NDArray[np.uint8]]:
    """Read the pictures of some specimens, as they were when they were checked."""
    paths = published.paths(specimens)
    contents = list(readers.map(Path.read_bytes, paths))
    for path, content, length in zip(paths, contents, lengths[specimens], strict=True):
        if len(content) != length:
            raise ValueError(
                f"{path} has changed since it was checked. Delete {journal} and run the same "
                "command again."
            )
    return [np.frombuffer(content, dtype=np.uint8) for content in contents]


def _tokenize(names: pd.DataFrame, tokenizer: str) -> tuple[dict[str, IntArray], IntArray]:
    """Tokenize the names of N specimens, each of the K distinct ones once.

    A specimen's text is its order, family, genus and species with a space between them, and
    ``not_classified`` where one is unknown. Return the schema's three columns of the distinct
    names, int64, shape ``(K, 20)`` each, and which of them each specimen has, int64 ``(N,)``.
    """
    positions = np.asarray(names.groupby(list(names), observed=True).ngroup(), dtype=np.int64)
    examples = np.unique(positions, return_index=True)[1]
    texts = [" ".join(map(str, parts)) for parts in names.take(examples).itertuples(index=False)]
    return TaxonTokenizer.from_pretrained(tokenizer)(texts), positions


def _source(
    rows: IntArray,
    texts: pd.DataFrame,
    widths: Mapping[str, int],
    tokens: tuple[dict[str, IntArray], IntArray],
    lengths: IntArray,
    read_pictures: Callable[[IntArray], list[npt.NDArray[np.uint8]]],
) -> SplitSource:
    """Return the specimens of one split; `widths` are the bytes of the longest text of a column."""
    distinct_tokens, token_rows = tokens

    def read(block: slice) -> dict[str, npt.NDArray[Any]]:
        chosen = rows[block]
        encoded = {
            name: np.array([str(text).encode() for text in texts[name].iloc[chosen]], f"S{width}")
            for name, width in widths.items()
        }
        return encoded | {
            name: tokens_of[token_rows[chosen]] for name, tokens_of in distinct_tokens.items()
        }

    return SplitSource(
        len(rows),
        {name: (values.dtype, values.shape[1:]) for name, values in read(slice(0, 0)).items()},
        read,
        lengths[rows],
        lambda block: read_pictures(rows[block]),
    )
