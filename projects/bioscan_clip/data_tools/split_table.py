"""The paper's partition of the specimens of any metadata table."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table

from projects.bioscan_clip.data_tools.splits import BASE_SPLITS, UNIONS, partition
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED


def split_table(
    metadata: Path,
    out: Path,
    seed: int = 0,
    species_column: str = "species",
    id_column: str = "sampleid",
) -> pd.DataFrame:
    """Partition specimens and write one list of ids per split, as CLIBD's are published.

    Parameters
    ----------
    metadata : pathlib.Path
        A table with a head line: separated by tabs if its name ends with ``.tsv`` or ``.txt``, else
        by commas.
    out : pathlib.Path
        The folder of lists. It appears when it is complete.
    seed : int, default=0
        The same specimens and seed give the same partition, in whatever order they are.
    species_column, id_column : str
        Columns of the species' name, empty or ``not_classified`` where unknown, and of the
        specimen's id.

    Returns
    -------
    pandas.DataFrame
        By split, its number of ``specimens`` and of ``species``.

    Raises
    ------
    ValueError
        If a column is missing, ids are missing or not unique, or no species is named.
    OSError
        If the table cannot be read, or the folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise OSError(f"{out} is not empty. Give another folder, or delete it first.")
    table = _read(metadata, species_column, id_column).sort_values("id", ignore_index=True)
    base = pd.Series(partition(_as_bytes(table["species"]), seed))
    # In the lists, `no_split` is without `single_species`, which the data file puts into it.
    members: dict[str, tuple[str, ...]] = UNIONS | {name: (name,) for name in BASE_SPLITS}
    splits = {name: table[base.isin(parts)] for name, parts in members.items()}
    _write(out, splits)
    counts = {name: (len(rows), rows["species"].nunique()) for name, rows in splits.items()}
    return pd.DataFrame.from_dict(counts, orient="index", columns=["specimens", "species"])


def print_counts(counts: pd.DataFrame, console: Console | None = None) -> None:
    """Print the number of specimens and species of each split."""
    table = Table()
    for heading in ("split", "specimens", "species"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, row in counts.iterrows():
        table.add_row(str(name), f"{row['specimens']:,}", f"{row['species']:,}")
    (console or Console()).print(table)


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


def _write(out: Path, splits: dict[str, pd.DataFrame]) -> None:
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = "".join(f"{identifier}\n" for identifier in rows["id"])
        (partial / f"{name}.txt").write_text(lines, encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.rename(out)
