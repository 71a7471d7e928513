"""The published metadata of BIOSCAN-1M and BIOSCAN-5M, read with the `bioscan-dataset` package."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from bioscan_dataset import (
    BIOSCAN1M,
    BIOSCAN5M,
    bioscan1m,
    bioscan5m,
    load_bioscan1m_metadata,
    load_bioscan5m_metadata,
)

from projects.bioscan_clip.data_tools.splits import PARTS_5M
from projects.bioscan_clip.datasets.schema import (
    BIN_COLUMNS,
    IDENTIFIERS,
    NOT_CLASSIFIED,
    RANKS,
    SPLITS_1M,
)

DatasetName = Literal["1m", "5m"]
IntArray = npt.NDArray[np.int64]

_BINS: Final = dict(zip(("1m", "5m"), BIN_COLUMNS, strict=True))


@dataclass(frozen=True)
class Published:
    """What the metadata say of N specimens.

    Attributes
    ----------
    metadata : pathlib.Path
        The file they were read from.
    photo_folder : pathlib.Path
        Where the pictures are.
    table : pandas.DataFrame
        Texts: `photo` (path of the picture in that folder), `barcode` (as it is published; empty
        where there is none), `sampleid`, `processid` and `image_file`; and as categories the four
        ranks and the Barcode Index Number, ``not_classified`` where unknown.
    splits : dict of str to numpy.ndarray
        Ascending positions of each split's specimens, int64.
    """

    metadata: Path
    photo_folder: Path
    table: pd.DataFrame
    splits: Mapping[str, IntArray]

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self.table)

    def paths(self, specimens: IntArray) -> list[Path]:
        """Return where the pictures of some specimens are."""
        return [self.photo_folder / photo for photo in self.table["photo"].iloc[specimens]]


def read_published(dataset: DatasetName, root: Path, image_package: str) -> Published:
    """Read the metadata of a data set below the folder that `bioscan-dataset` keeps it in.

    Parameters
    ----------
    dataset : {"1m", "5m"}
        BIOSCAN-1M with its CLIBD partition, or BIOSCAN-5M.
    root : pathlib.Path
        Holds ``bioscan1m`` or ``bioscan5m``.
    image_package : str
        Which pictures: a folder of ``images``, such as ``cropped_256``.

    Returns
    -------
    Published
        Labels, identifiers, splits and paths of pictures.

    Raises
    ------
    FileNotFoundError
        If metadata, partition or the folder of pictures are not there.
    ValueError
        If the metadata are not as published, or the partition leaves a specimen out.
    """
    publisher = BIOSCAN1M if dataset == "1m" else BIOSCAN5M
    folder = root / publisher.base_folder
    metadata, photo_folder = folder / publisher.meta["filename"], folder / "images" / image_package
    lists = [folder / bioscan1m.CLIBD_PARTITIONING_DIRNAME / f"{name}.txt" for name in SPLITS_1M]
    _check_there(dataset, [metadata, photo_folder, *(lists if dataset == "1m" else [])])
    try:
        table = _load_1m(metadata) if dataset == "1m" else _load_5m(metadata)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{metadata} is not as published: {error}") from error
    _check_identifiers(metadata, table)
    if dataset == "1m":
        members = {path.stem: table["sampleid"].isin(_read_ids(path)) for path in lists}
    else:
        members = {name: table["split"].isin(parts) for name, parts in PARTS_5M.items()}
    barcode, bin_column = ("nucraw" if dataset == "1m" else "dna_barcode"), _BINS[dataset]
    names = table[[*RANKS, bin_column]].astype(object).fillna(NOT_CLASSIFIED.decode())
    texts = table[["photo", *IDENTIFIERS]].assign(barcode=table[barcode].fillna(""))
    return Published(
        metadata,
        photo_folder,
        pd.concat([texts, names.astype("category")], axis=1),
        {name: np.flatnonzero(chosen) for name, chosen in members.items()},
    )


def _check_identifiers(metadata: Path, table: pd.DataFrame) -> None:
    """Raise a ValueError if a specimen lacks an identifier, or is there twice."""
    for column in IDENTIFIERS:
        empty = np.flatnonzero(table[column].isna())
        if len(empty):
            raise ValueError(
                f"{metadata}, line {empty[0] + 2}: there is no {column}. So it is in "
                f"{len(empty):,} lines; fill it in, or delete these lines."
            )
    column = "sampleid" if "clibd_split" in table else "processid"
    twice = table[table[column].duplicated(keep=False)]
    if len(twice):
        name = twice[column].iloc[0]
        where = f"{metadata}: the {column} {name} is there more than once"
        if "clibd_split" in table:
            lists = twice["clibd_split"][twice[column] == name]
            where += f" or in more than one list ({', '.join(lists)})"
        raise ValueError(f"{where}. A specimen has one row and one list; delete the others.")


def _load_1m(metadata: Path) -> pd.DataFrame:
    table: pd.DataFrame = load_bioscan1m_metadata(
        str(metadata), max_nucleotides=None, partitioning_version="clibd", usecols=bioscan1m.USECOLS
    )
    folders = "part" + table["chunk_number"].astype(str) + "/"
    return table.assign(photo=folders + table["image_file"])


def _read_ids(path: Path) -> "pd.Series[str]":
    return pd.read_csv(path, names=["sampleid"], dtype=str)["sampleid"]


def _load_5m(metadata: Path) -> pd.DataFrame:
    columns = [*bioscan5m.USECOLS, "sampleid"]
    table: pd.DataFrame = load_bioscan5m_metadata(
        str(metadata), max_nucleotides=None, usecols=columns
    )
    return table.assign(image_file=table["processid"] + ".jpg", photo=table["image_path"])


def _check_there(dataset: DatasetName, needed: list[Path]) -> None:
    missing = [path for path in needed if not path.exists()]
    if missing:
        lists = BIOSCAN1M.clibd_partitioning_files["url"]
        more = f" The lists of the partition are in {lists}." if dataset == "1m" else ""
        raise FileNotFoundError(
            f"There is no {missing[0]}. Put the files of BIOSCAN-"
            f"{dataset.upper()} where the `bioscan-dataset` package keeps them, or let it download "
            f"them there.{more}"
        )
