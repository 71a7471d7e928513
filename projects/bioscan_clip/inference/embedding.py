"""Embeddings of specimens as people have them: in parts, with a reason where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, RANKS
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.encoders.pretrained import absolute
from projects.bioscan_clip.files import check_output, write_whole
from projects.bioscan_clip.inference.inputs import photo_of
from projects.bioscan_clip.inference.model import Model, load_model
from projects.bioscan_clip.inference.parts import Parts, Slurm
from projects.bioscan_clip.scoring.specimens import Specimens

PART: Final = 4096
"""Specimens that are embedded, and after a kill resumed, at once."""

Crop = Literal["none", "auto"]
Floats = npt.NDArray[np.float32]

_MODEL_HASH: Final = b"bioscan_clip.model_hash"


@dataclass(frozen=True)
class Embed:
    """Embed a table of specimens.

    Attributes
    ----------
    model : str
        A checkpoint or the folder of a run.
    crop : {"none", "auto"}
        See :meth:`~projects.bioscan_clip.inference.model.Model.encode_image`.
    save_crops : pathlib.Path, optional
        A folder where crops are written, called by the specimens' ids.
    """

    model: str
    crop: Crop = "none"
    save_crops: Path | None = None

    def __post_init__(self) -> None:
        """Refuse to save what is not cut."""
        if self.save_crops and self.crop == "none":
            raise ValueError("--save-crops saves what --crop auto cuts out; give both.")

    def __call__(self, table: pd.DataFrame) -> pa.Table:
        """Add embeddings to a table.

        Parameters
        ----------
        table : pandas.DataFrame
            From :func:`~projects.bioscan_clip.inference.inputs.read_inputs`.

        Returns
        -------
        pyarrow.Table
            The same with barcodes as they were placed, ``rgb`` and ``dna`` (lists of float32, zeros
            where there is none), ``error`` (why a photo or barcode has no embedding) and ``note``
            (what was done to them).
        """
        model = loaded_model(self.model)
        errors: list[list[str]] = [[] for _ in range(len(table))]
        notes: list[list[str]] = [[] for _ in range(len(table))]
        vectors = {
            name: np.zeros((len(table), model.dimension), dtype=np.float32)
            for name in ("rgb", "dna")
        }
        photos, barcodes = (table[name].notna().to_numpy() for name in ("photo", "barcode"))
        texts = table["barcode"].copy()
        for name, what, has in (("rgb", "photo", photos), ("dna", "barcode", barcodes)):
            rows = np.flatnonzero(has)
            if len(rows) and name not in model.modalities:
                for row in rows:
                    errors[row].append(f"the model has no encoder of {what}s")
            elif len(rows) and name == "rgb":
                places = table["photo"].iloc[rows]
                encoded = model.encode_image(
                    [photo_of(place) for place in places],
                    on_error="skip",
                    crop=self.crop,
                    save_crops=self._crop_files(table["id"].iloc[rows]),
                )
                keep(encoded, rows, vectors[name], what, errors, notes)
            elif len(rows):
                encoded, placed = encode_barcodes(model, texts.iloc[rows].tolist())
                texts.iloc[rows] = placed
                keep(encoded, rows, vectors[name], what, errors, notes)
        for row in np.flatnonzero(~photos & ~barcodes):
            errors[row].append("there is neither a photo nor a barcode")
        described = table.assign(
            barcode=texts,
            error=pd.Series(["; ".join(part) for part in errors], dtype="string"),
            note=pd.Series(["; ".join(part) for part in notes], dtype="string"),
        )
        result = pa.Table.from_pandas(described, preserve_index=False)
        for name, values in vectors.items():
            flat = pa.array(values.ravel(), pa.float32())
            result = result.append_column(
                name, pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            )
        return result.replace_schema_metadata({_MODEL_HASH: model.hash.encode()})

    def _crop_files(self, ids: "pd.Series[str]") -> list[Path] | None:
        """Return where the crops of specimens are written: `trap/moth.jpg` is `trap_moth.jpg`."""
        if self.save_crops is None:
            return None
        names = ids.str.replace(r"[^\w.-]+", "_", regex=True).str.removesuffix(".jpg")
        return [self.save_crops / f"{name}.jpg" for name in names]


@lru_cache(maxsize=1)
def loaded_model(source: str) -> Model:
    """Load a model once per process."""
    return load_model(source)


def embed_inputs(
    model: str,
    table: pd.DataFrame,
    out: Path,
    crop: Crop,
    slurm: Slurm | None,
    save_crops: Path | None = None,
) -> Parts:
    """Embed all specimens, resuming what was begun for the same output."""
    work = Embed(absolute(model), crop, save_crops)
    key = {"model": loaded_model(model).hash, "crop": crop, "work": "embed"}
    if save_crops:
        key["save_crops"] = str(save_crops)
    parts = Parts(out, table, PART, key)
    parts.run(work, "Embedding", slurm)
    return parts


def embed_to_file(
    model: str,
    table: pd.DataFrame,
    out: Path,
    crop: Crop = "none",
    slurm: Slurm | None = None,
    force: bool = False,
    save_crops: Path | None = None,
) -> pd.DataFrame:
    """Write embeddings of specimens to a file.

    Parameters
    ----------
    model : str
        A checkpoint or the folder of a run.
    table : pandas.DataFrame
        From :func:`~projects.bioscan_clip.inference.inputs.read_inputs`.
    out : pathlib.Path
        A ``.parquet`` file: the table with ``rgb`` and ``dna``, lists of numbers; or ``.npz``:
        ``id``, ``rgb`` and ``dna``. Zeros stand where there is no photo or barcode.
    crop, slurm, force, save_crops
        How photos are cut, who computes, whether a file is replaced, and where crops are written.

    Returns
    -------
    pandas.DataFrame
        ``id`` and ``error`` of the specimens of which something could not be embedded.

    Raises
    ------
    ValueError, FileExistsError
        If the output's name ends otherwise, or it cannot be written.
    """
    if out.suffix not in (".parquet", ".npz"):
        raise ValueError(f"{out} should end with .parquet or .npz.")
    check_output(out, force=force)
    parts = embed_inputs(model, table, out, crop, slurm, save_crops)
    if out.suffix == ".parquet":

        def write(path: Path) -> None:
            tables = parts.read()
            first = next(tables)
            with pq.ParquetWriter(path, first.schema) as writer:
                writer.write_table(first)
                for part in tables:
                    writer.write_table(part)
    else:

        def write(path: Path) -> None:
            read = list(parts.read())
            ids = np.concatenate([part["id"].to_numpy(zero_copy_only=False) for part in read])
            arrays = {
                name: np.concatenate([vectors(part, name) for part in read])
                for name in ("rgb", "dna")
            }
            with path.open("wb") as file:
                np.savez(file, id=ids.astype(str), **arrays)

    write_whole(out, write)
    bad = failed(parts)
    parts.remove()
    return bad


def failed(parts: Parts) -> pd.DataFrame:
    """Return ``id`` and ``error`` of the specimens with an error."""
    listed = [part.select(["id", "error"]).to_pandas() for part in parts.read()]
    table = pd.concat(listed, ignore_index=True)
    bad: pd.DataFrame = table[table["error"] != ""]
    return bad


def model_hash_of(table: pa.Table) -> str | None:
    """Return the hash of the model that embedded a table; None if it is of no model."""
    found: Mapping[bytes, bytes] = table.schema.metadata or {}
    return found[_MODEL_HASH].decode() if _MODEL_HASH in found else None


def vectors(table: pa.Table, name: str) -> Floats:
    """Return embeddings of a table: float32, shape ``(N, D)``."""
    column = table[name].combine_chunks()
    flat: Floats = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1)


def as_specimens(table: pa.Table) -> Specimens:
    """Return the specimens of an embedded table that have an embedding."""
    embeddings = {name: vectors(table, name) for name in ("rgb", "dna")}
    has = np.logical_or.reduce([values.any(axis=1) for values in embeddings.values()])
    described = table.drop_columns(["rgb", "dna"]).to_pandas().astype("string")[has]
    present: dict[str, Any] = {
        name: torch.from_numpy(values[has]) for name, values in embeddings.items() if values.any()
    }
    return Specimens(
        torch.from_numpy(label_codes(described)),
        table=described.reset_index(drop=True),
        **present,
    )


def label_codes(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return codes of the names in a table: int64, shape ``(N, 4)``, -1 where unknown."""
    unknown = NOT_CLASSIFIED.decode()
    texts = [[name.encode() for name in table[rank].fillna(unknown)] for rank in RANKS]
    return np.stack([encode_taxa(np.array(column, dtype=bytes)) for column in texts], axis=1)


def encode_barcodes(model: Model, barcodes: Sequence[str]) -> tuple[Any, list[str]]:
    """Embed barcodes, errors aside, and return them as they were placed."""
    encoded = model.encode_dna(barcodes, on_error="skip")
    good = [row for row in range(len(barcodes)) if row not in encoded.errors]
    placed = list(barcodes)
    for row, prepared in zip(good, model.placer.prepare([barcodes[r] for r in good]), strict=True):
        placed[row] = prepared.text
    return encoded, placed


def keep(
    encoded: Any,
    rows: npt.NDArray[np.int64],
    target: Floats,
    what: str,
    errors: Sequence[list[str]],
    notes: Sequence[list[str]],
) -> None:
    """Keep embeddings of some rows of a table, and by row what is said of them."""
    target[rows] = np.nan_to_num(encoded.embeddings)
    for found, kept in ((encoded.errors, errors), (encoded.notes, notes)):
        for position, text in found.items():
            kept[rows[position]].append(f"{what}: {text}")
