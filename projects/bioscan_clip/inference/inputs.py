"""What people have: photos, tables, FASTA files and HDF5 splits as one table, a row a specimen."""

import glob
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import dnaio
import numpy as np
import pandas as pd

from projects.bioscan_clip.datasets.hdf5 import HDF5Split, damage_named, open_file, own_member
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    IDENTIFIERS,
    IMAGE,
    NOT_CLASSIFIED,
    RANKS,
)
from projects.bioscan_clip.inference.segments import COLUMNS

TABLE_COLUMNS: Final = ("id", *COLUMNS, "barcode")
"""``id`` names a specimen in messages and results; ``photo`` says where its photo is: a path, or
``file.hdf5::split::row``. Strings, missing where unknown."""

PHOTO_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")

_TABLES: Final = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_SEQUENCES: Final = (".fasta", ".fa", ".fas", ".fna", ".fastq", ".fq")
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")
_HDF5: Final = (".hdf5", ".h5")
_SPLIT: Final = "::"

# Names of columns in tables of BOLD (BCDM), BIOSCAN-1M and -5M and in other people's, by ours.
_NAMES: Final = {
    "photo": ("photo", "image", "image_path", "path", "file"),
    "barcode": ("barcode", "nuc", "nucraw", "dna_barcode", "nucleotides", "sequence"),
    "bin": ("bin", "bin_uri", *BIN_COLUMNS),
    "place": ("place", "country/ocean", "country"),
    "licence": ("licence", "license", "copyright_license", "image_licence"),
    "sampleid": ("sampleid", "sample_id", "sample", "specimenid", "specimen_id", "specimen"),
    "processid": ("processid", "process_id"),
    "image_file": ("image_file", "image_filename", "filename"),
    **{rank: (rank,) for rank in RANKS},
}
_UNKNOWN: Final = ("", "None", "none", "NA", "nan", NOT_CLASSIFIED.decode())


def read_inputs(
    inputs: Sequence[str],
    split: str | None = None,
    photos: Path | None = None,
    taxonomy: Path | None = None,
) -> pd.DataFrame:
    """List specimens.

    Parameters
    ----------
    inputs : sequence of str
        Photos, folders of photos, patterns such as ``"moths/*.jpg"``; tables (CSV, TSV, Parquet)
        with columns of photos, barcodes or both; FASTA or FASTQ, also compressed; a split of an
        HDF5 file as ``file.hdf5::split``; or ``-``, such names on the standard input, one a line.
    split : str, optional
        Split of HDF5 files that are given without one.
    photos : pathlib.Path, optional
        Folder of the photos that tables name; that of the table if not given.
    taxonomy : pathlib.Path, optional
        A table of names for FASTA records, whose first column is their id.

    Returns
    -------
    pandas.DataFrame
        With `TABLE_COLUMNS`.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a pattern matches none.
    ValueError
        If a file is of no such kind, or holds no specimens.
    """
    parts = [part for one in inputs for part in _read(one, split, photos)]
    if not sum(map(len, parts)):
        raise ValueError(f"{', '.join(inputs) or 'The list'} names no specimens.")
    table = pd.concat(parts, ignore_index=True).reindex(columns=list(TABLE_COLUMNS))
    table = table.astype("string")
    if taxonomy is not None:
        table = _with_names(table, taxonomy)
    return table


def photo_of(place: str) -> Path | bytes:
    """Return the photo at a place that a table names: a path, or the bytes in an HDF5 file."""
    if _SPLIT not in place:
        return Path(place)
    file, split, row = place.rsplit(_SPLIT, 2)
    return _open_split(file, split).read_jpegs(np.array([int(row)]))[0].tobytes()


def _read(name: str, split: str | None, photos: Path | None) -> Iterator[pd.DataFrame]:
    if name == "-":
        for line in sys.stdin:
            if line.strip():
                yield from _read(line.strip(), split, photos)
        return
    if _SPLIT in name:
        name, split = name.rsplit(_SPLIT, 1)
    path = Path(name).expanduser()
    ending = _ending(path)
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if _ending(one) in PHOTO_ENDINGS)
        if not found:
            raise ValueError(f"{path} holds no photos ({', '.join(PHOTO_ENDINGS)}).")
        yield _photos(found)
    elif not path.exists():
        found = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        if not found:
            raise FileNotFoundError(f"There is no {name}, neither a file nor a pattern of some.")
        for one in found:
            yield from _read(str(one), split, photos)
    elif ending in PHOTO_ENDINGS:
        yield _photos([path])
    elif ending in _HDF5:
        yield _read_split(path, split)
    elif ending in _SEQUENCES:
        yield _read_sequences(path)
    elif ending in _TABLES or ending == ".parquet":
        yield _read_table(path, photos)
    else:
        raise ValueError(
            f"{path} is of no known kind: its name should end with one of "
            f"{' '.join((*PHOTO_ENDINGS, *_TABLES, '.parquet', *_SEQUENCES, *_HDF5))}, "
            "sequences also with .gz."
        )


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if len(suffixes) == 2 and suffixes[1] in _COMPRESSED:
        return suffixes[0]
    return suffixes[-1] if suffixes else ""


def _photos(paths: Sequence[Path]) -> pd.DataFrame:
    names = [str(path) for path in paths]
    return pd.DataFrame({"id": names, "photo": names, "image_file": [path.name for path in paths]})


def _read_sequences(path: Path) -> pd.DataFrame:
    try:
        with dnaio.open(path) as records:
            rows = [(record.id, record.sequence) for record in records]
    except dnaio.FileFormatError as error:
        raise ValueError(f"{path} is no FASTA or FASTQ: {error}.") from error
    ids = [name for name, _ in rows]
    return pd.DataFrame({"id": ids, "sampleid": ids, "barcode": [bases for _, bases in rows]})


def _read_table(path: Path, photos: Path | None) -> pd.DataFrame:
    raw = _raw_table(path)
    lower = {str(column).strip().lower(): column for column in reversed(raw.columns)}
    table = pd.DataFrame(index=raw.index)
    for ours, names in _NAMES.items():
        column = next((lower[name] for name in names if name in lower), None)
        if column is not None:
            texts = raw[column].astype("string").str.strip()
            table[ours] = texts.mask(texts.isin(_UNKNOWN))
    if "photo" not in table and "image_file" in table and (photos or "barcode" not in table):
        # A table of barcodes may name photos that nobody has, unless their folder is given.
        table["photo"] = table["image_file"]
    if not {"photo", "barcode"} & set(table):
        raise ValueError(
            f"{path} has no column of photos ({', '.join(_NAMES['photo'])}) or of barcodes "
            f"({', '.join(_NAMES['barcode'])}); its columns are {', '.join(map(str, raw.columns))}."
        )
    if "photo" in table:
        folder = photos or path.parent
        table["photo"] = table["photo"].map(lambda name: str(folder / name), na_action="ignore")
    identifiers = ("id", *_NAMES["sampleid"], *_NAMES["processid"])
    first = next((lower[name] for name in identifiers if name in lower), None)
    rows = [f"{path.name}, row {row + 1}" for row in range(len(raw))]
    numbered = pd.Series(rows, index=raw.index, dtype="string")
    table["id"] = numbered if first is None else raw[first].astype("string").fillna(numbered)
    if "sampleid" not in table:
        table["sampleid"] = table["id"]
    return table


def _raw_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(
            path,
            sep=_TABLES[_ending(path)],
            dtype="string",
            keep_default_na=False,
            encoding="utf-8-sig",
            low_memory=False,
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def _read_split(path: Path, split: str | None) -> pd.DataFrame:
    if split is None:
        with open_file(path) as file:
            held = ", ".join(sorted(file))
        raise ValueError(f"Name a split of {path}, as in {path}{_SPLIT}test_seen. It has: {held}.")
    with damage_named(path), open_file(path) as file:
        if split not in file:
            raise ValueError(f"{path} has no split {split!r}. It has: {', '.join(sorted(file))}.")
        group = own_member(file, split)
        names = {name: name for name in (*IDENTIFIERS, *RANKS, BARCODE) if name in group}
        bin_column = next((name for name in BIN_COLUMNS if name in group), None)
        if bin_column is not None:
            names["bin"] = bin_column
        table = pd.DataFrame(
            {
                ours: pd.Series(own_member(group, name)[:].astype(bytes)).str.decode(
                    "utf-8", errors="replace"
                )
                for ours, name in names.items()
            }
        )
        has_photos = IMAGE in group
    table = table.astype("string")
    table = table.mask(table.isin(_UNKNOWN))
    if has_photos:
        table["photo"] = [f"{path}{_SPLIT}{split}{_SPLIT}{row}" for row in range(len(table))]
    fallback = pd.Series([f"{split}, row {row}" for row in range(len(table))], dtype="string")
    table["id"] = table["sampleid"].fillna(fallback) if "sampleid" in table else fallback
    return table


def _with_names(table: pd.DataFrame, taxonomy: Path) -> pd.DataFrame:
    raw = _raw_table(taxonomy)
    raw.columns = [str(column).strip().lower() for column in raw.columns]
    given = [rank for rank in RANKS if rank in raw]
    if not given:
        raise ValueError(f"{taxonomy} has none of the columns {', '.join(RANKS)}.")
    names = raw.set_index(raw.columns[0])[given].astype("string")
    if not names.index.is_unique:
        raise ValueError(f"{taxonomy} names {names.index[names.index.duplicated()][0]} twice.")
    found = names.reindex(table["id"].tolist()).reset_index(drop=True)
    found = found.mask(found.isin(_UNKNOWN))
    return table.assign(**{rank: found[rank].fillna(table[rank]) for rank in given})


@lru_cache(maxsize=8)
def _open_split(path: str, split: str) -> HDF5Split:
    return HDF5Split(path, split, (IMAGE,))
