"""Results in the formats that people read on: tables, BLAST's, SINTAX's, Darwin Core."""

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.files import write_whole

Format = Literal["table", "blast6", "sintax", "dwc"]
ENDINGS: Final = (".csv", ".tsv", ".parquet", ".jsonl")

_BLAST6_UNKNOWN: Final = "0\t0\t0\t0\t0\t0\t0\t-1\t0"  # as vsearch writes what it did not compute


def check_format(out: Path, form: Format) -> None:
    """Refuse a name that does not fit the format.

    Raises
    ------
    ValueError
        If it does not.
    """
    wanted = {"table": ENDINGS, "dwc": (".csv", ".tsv")}.get(form)
    if wanted and out.suffix not in wanted:
        raise ValueError(f"{out} should end with {', '.join(wanted)}.")


def write_results(
    parts: Callable[[], Iterable[pd.DataFrame]],
    out: Path,
    form: Format,
    about: Mapping[str, Any],
) -> None:
    """Write names of specimens, and beside them what they depend on.

    Parameters
    ----------
    parts : callable
        Returns tables from :func:`~projects.bioscan_clip.inference.identify.identify`, with ``id``,
        ``error`` and ``note``.
    out : pathlib.Path
        The file; ``table`` is CSV, TSV, Parquet or JSON Lines by its ending. Lists are joined by
        ``;`` in CSV and TSV.
    form : {"table", "blast6", "sintax", "dwc"}
        A row per specimen; or a line per specimen and near one, as ``blastn -outfmt 6``; or as
        ``vsearch --sintax``; or Darwin Core's terms of an identification.
    about : mapping
        Model, library, options; written to ``{out}.about.json``.
    """
    if form == "table" and out.suffix == ".parquet":
        write_whole(out, lambda path: _write_parquet(path, parts()))
    else:

        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                _write_text(file, parts(), out.suffix, form, about)

        write_whole(out, write)
    text = json.dumps(dict(about), indent=1) + "\n"
    write_whole(out.with_name(out.name + ".about.json"), lambda path: path.write_text(text))


def _write_parquet(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    writer = None
    for part in parts:
        table = pa.Table.from_pandas(part, preserve_index=False)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()


def _write_text(
    file: IO[str],
    parts: Iterable[pd.DataFrame],
    ending: str,
    form: Format,
    about: Mapping[str, Any],
) -> None:
    separator = "," if ending == ".csv" else "\t"
    for number, part in enumerate(parts):
        if form == "blast6":
            file.writelines(_blast6(part))
        elif form == "sintax":
            file.writelines(_sintax(part))
        elif form == "table" and ending == ".jsonl":
            file.write(part.to_json(orient="records", lines=True, force_ascii=False))
        else:
            flat = _darwin_core(part, about) if form == "dwc" else _flat(part)
            flat.to_csv(file, sep=separator, index=False, header=number == 0, lineterminator="\n")


def _flat(part: pd.DataFrame) -> pd.DataFrame:
    flat = part.round(4)
    for column in part:
        if str(column).startswith("nearest_"):
            flat[column] = part[column].map(lambda values: "; ".join(map(str, values)))
    return flat


def _blast6(part: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each near specimen: percent identity, or a photo's similarity times 100."""
    for row in part.to_dict("records"):
        shown = row["nearest_identities"]
        if not len(shown):
            shown = [round(100 * value, 2) for value in row["nearest_similarities"]]
        for name, value in zip(row["nearest_ids"], shown, strict=True):
            yield f"{_word(row['id'])}\t{_word(name)}\t{value}\t{_BLAST6_UNKNOWN}\n"


def _sintax(part: pd.DataFrame) -> Iterator[str]:
    """Yield query, all names with their confidence, strand, and the accepted names."""
    for row in part.to_dict("records"):
        named = [rank for rank in RANKS if isinstance(row[rank], str)]
        every = ",".join(
            f"{rank[0]}:{_word(row[rank])}({row[f'{rank}_confidence']:.2f})"
            for rank in named
            if not pd.isna(row[f"{rank}_confidence"])
        )
        accepted = ",".join(
            f"{rank[0]}:{_word(row[rank])}" for rank in named if row[f"{rank}_accepted"] is True
        )
        yield f"{_word(row['id'])}\t{every}\t+\t{accepted}\n"


def _darwin_core(part: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """Return Darwin Core's terms; the names are those that were accepted."""
    accepted = {
        rank: part[rank].where(part[f"{rank}_accepted"].fillna(False).astype(bool))
        for rank in RANKS
    }
    confidence = pd.concat(
        [part[f"{rank}_confidence"].where(accepted[rank].notna()) for rank in RANKS], axis=1
    )
    deepest = confidence.ffill(axis=1).iloc[:, -1]
    return pd.DataFrame(
        {
            "materialEntityID": part["id"],
            "scientificName": part["accepted_name"],
            "taxonRank": part["accepted_rank"],
            **{rank: accepted[rank] for rank in RANKS[:3]},
            "identifiedBy": f"bioscan-clip {about['version']}",
            "dateIdentified": datetime.date.today().isoformat(),
            "identificationVerificationStatus": "unverified, by machine",
            "identificationReferences": f"model {about['model_hash'][:12]}, library "
            f"{about['library_hash'][:12]}",
            "identificationRemarks": [
                f"{answer}; confidence {value:.3f}" if not pd.isna(value) else answer
                for answer, value in zip(part["answer"].fillna(part["error"]), deepest, strict=True)
            ],
        }
    )


def _word(text: str) -> str:
    """Return a text without what separates fields."""
    return "_".join(str(text).split())
