"""The partition of specimens into splits that CLIBD trains and evaluates on, of any table."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from projects.bioscan_clip.data_tools.printing import table_of_splits
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, UNKNOWN_NAMES
from projects.bioscan_clip.files import check_output, write_whole

HEAD_SIZE: Final = 10
"""Specimens from which a species is well enough sampled to be trained on and evaluated as seen."""

UNSEEN_SHARE: Final = 0.2
"""Share of the well-sampled species that training never sees."""

UNLABELLED: Final = "no_split"
SINGLETON: Final = "single_species"

BASE_SPLITS: Final = (
    UNLABELLED,
    SINGLETON,
    "train_seen",
    "val_seen",
    "test_seen",
    "seen_keys",
    "val_unseen",
    "val_unseen_keys",
    "test_unseen",
    "test_unseen_keys",
)
"""Where a specimen can be; every specimen is in exactly one of them."""

UNIONS: Final = {
    "no_split": (UNLABELLED, SINGLETON),
    "no_split_and_seen_train": (UNLABELLED, SINGLETON, "train_seen"),
    "all_keys": ("seen_keys", "val_unseen_keys", "test_unseen_keys"),
}
"""Splits of the file that hold the specimens of several base splits."""

PARTS_1M: Final[Mapping[str, tuple[str, ...]]] = {name: (name,) for name in BASE_SPLITS} | UNIONS
PARTS_5M: Final[Mapping[str, tuple[str, ...]]] = {
    "all_keys": ("train", "key_unseen"),
    "seen_keys": ("train",),
    "unseen_keys": ("key_unseen",),
    "no_split_and_seen_train": ("pretrain", "train"),
    "val_seen": ("val",),
    "val_unseen": ("val_unseen",),
    "test_seen": ("test",),
    "test_unseen": ("test_unseen",),
    "other_heldout": ("other_heldout",),
}
"""Of which kinds of specimens each split of a file consists; those of BIOSCAN-5M are called as in
its metadata. Its file takes the training specimens as keys of seen species."""


def partition(species: npt.NDArray[np.bytes_], seed: int) -> npt.NDArray[np.str_]:
    """Assign each specimen to a base split.

    - Specimens without a species label are ``no_split``; species with one specimen are
      ``single_species``. Both are for pretraining only.
    - Of the species with at least 10 specimens, 80 % are seen: 70 % of a species' specimens are
      ``train_seen``, and 10 % each (at least one) ``val_seen``, ``test_seen`` and ``seen_keys``.
    - The other 20 %, and all species with 2 to 9 specimens, which are too few to be learnt and
      judged alike, are unseen. Half of these species are for validation, half for test. Half of a
      species' specimens, rounded down, are queries (``val_unseen``, ``test_unseen``), the others
      keys (``val_unseen_keys``, ``test_unseen_keys``).

    Parameters
    ----------
    species : numpy.ndarray
        Species labels, bytes, shape ``(N,)``; empty or ``b"not_classified"`` where unknown.
    seed : int
        The same labels and seed give the same partition.

    Returns
    -------
    numpy.ndarray
        Names out of ``BASE_SPLITS``, str, shape ``(N,)``.
    """
    rng = np.random.default_rng(seed)
    splits = np.full(len(species), UNLABELLED, dtype=f"U{max(map(len, BASE_SPLITS))}")
    labelled = np.flatnonzero(~np.isin(species, UNKNOWN_NAMES))
    taxa, counts = np.unique(species[labelled], return_inverse=True, return_counts=True)[1:]
    size, position = counts[taxa], _shuffled_positions(taxa, counts, rng)
    role = _draw_roles(counts, rng)[taxa]

    tenth = np.maximum(1, np.round(size / 10).astype(np.int64))
    names = np.select(
        [
            role == SINGLETON,
            (role == "seen") & (position < tenth),
            (role == "seen") & (position < 2 * tenth),
            (role == "seen") & (position < 3 * tenth),
            role == "seen",
            position < size // 2,
        ],
        [SINGLETON, "seen_keys", "val_seen", "test_seen", "train_seen", role],
        default=np.char.add(role, "_keys"),
    )
    splits[labelled] = names
    return splits


def rows_of_splits(splits: npt.NDArray[np.str_]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the specimens of every split of a BIOSCAN-1M file.

    Parameters
    ----------
    splits : numpy.ndarray
        Base split of each specimen, str, shape ``(N,)``; see :func:`partition`.

    Returns
    -------
    dict of str to numpy.ndarray
        For each split, ascending positions among the specimens, int64.
    """
    return {name: np.flatnonzero(np.isin(splits, parts)) for name, parts in PARTS_1M.items()}


def split_table(
    metadata: Path,
    out: Path,
    seed: int = 0,
    species_column: str = "species",
    id_column: str = "sampleid",
    force: bool = False,
) -> pd.DataFrame:
    """Partition specimens and write one list of ids per split, as CLIBD's are published.

    Parameters
    ----------
    metadata : pathlib.Path
        A table with a head line: separated by tabs if its name ends with ``.tsv`` or ``.txt``, else
        by commas.
    out : pathlib.Path
        The folder of lists.
    seed : int, default=0
        The same specimens and seed give the same partition, in whatever order they are.
    species_column, id_column : str
        Columns of the species' name, empty or ``not_classified`` where unknown, and of the
        specimen's id.
    force : bool, default=False
        Whether lists in the folder may be replaced.

    Returns
    -------
    pandas.DataFrame
        By split, its number of ``specimens`` and of ``species``.

    Raises
    ------
    ValueError
        If a column is missing, ids are missing or not unique, or no species is named.
    OSError
        If the table cannot be read, a list is there and not `force`, or the disk is full: then
        all lists are as they were.
    """
    lists = {name: out / f"{name}.txt" for name in (*BASE_SPLITS, *UNIONS)}
    for path in lists.values():
        check_output(path, [metadata], force)
    table = _read(metadata, species_column, id_column).sort_values("id", ignore_index=True)
    base = pd.Series(partition(_as_bytes(table["species"]), seed))
    # In the lists, `no_split` is without `single_species`, which the data file puts into it.
    members = {**PARTS_1M, UNLABELLED: (UNLABELLED,)}
    splits = {name: table[base.isin(parts)] for name, parts in members.items()}
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unfinished-", dir=out) as folder:  # all lists or none
        for name, rows in splits.items():
            write = partial(rows["id"].to_csv, index=False, header=False)
            write_whole(Path(folder, lists[name].name), write)
        for path in lists.values():
            Path(folder, path.name).replace(path)
    counts = {name: (len(rows), rows["species"].nunique()) for name, rows in splits.items()}
    return pd.DataFrame.from_dict(counts, orient="index", columns=["specimens", "species"])


def print_counts(counts: pd.DataFrame, console: Console | None = None) -> None:
    """Print the number of specimens and species of each split."""
    cells = counts.map("{:,}".format)
    rows = zip(cells.index, cells.to_numpy().tolist(), strict=True)
    (console or Console()).print(table_of_splits(list(cells.columns), rows))


def _shuffled_positions(
    taxa: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the number of each specimen in its species, counted from 0 in random order."""
    shuffled = rng.permutation(len(taxa))
    grouped = shuffled[np.argsort(taxa[shuffled], kind="stable")]
    first = np.cumsum(counts) - counts
    positions = np.empty(len(taxa), dtype=np.int64)
    positions[grouped] = np.arange(len(taxa)) - np.repeat(first, counts)
    return positions


def _draw_roles(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.str_]:
    """Decide for each species whether it is a singleton, seen, or unseen in validation or test."""
    roles = np.full(len(counts), "seen", dtype="U16")
    roles[counts == 1] = SINGLETON
    heads = rng.permutation(np.flatnonzero(counts >= HEAD_SIZE))
    unseen_heads = heads[: round(UNSEEN_SHARE * len(heads))]
    tails = np.flatnonzero((counts > 1) & (counts < HEAD_SIZE))
    unseen = rng.permutation(np.concatenate([unseen_heads, tails]))
    # Dealt out by falling size, so that validation and test are equally large.
    unseen = unseen[np.argsort(-counts[unseen], kind="stable")]
    roles[unseen[0::2]] = "val_unseen"
    roles[unseen[1::2]] = "test_unseen"
    return roles


def _read(metadata: Path, species_column: str, id_column: str) -> pd.DataFrame:
    separator = "\t" if metadata.suffix in (".tsv", ".txt") else ","
    columns = {id_column: "id", species_column: "species"}
    try:
        table = pd.read_csv(metadata, sep=separator, usecols=list(columns), dtype=str)
    except ValueError as error:
        head = pd.read_csv(metadata, sep=separator, nrows=0).columns
        raise ValueError(
            f"{metadata} has no column {' or no column '.join(columns)}; it has "
            f"{', '.join(head)}. Name others by --species-column and --id-column."
        ) from error
    table = table.rename(columns=columns)
    table["species"] = table["species"].where(table["species"] != NOT_CLASSIFIED.decode())
    if table["id"].isna().any():
        line = int(table["id"].isna().argmax()) + 2
        raise ValueError(f"{metadata}, line {line}: a specimen has no {id_column}.")
    if table["id"].duplicated().any():
        twice = table["id"][table["id"].duplicated()].iloc[0]
        raise ValueError(f"{metadata}: the {id_column} {twice!r} is there more than once.")
    if table["species"].isna().all():
        raise ValueError(f"{metadata}: no specimen has a {species_column}.")
    return table


def _as_bytes(species: "pd.Series[str]") -> npt.NDArray[np.bytes_]:
    return np.array([name.encode() for name in species.fillna("")], dtype=bytes)
