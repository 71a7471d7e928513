"""From files of specimens to a file of names."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.files import check_output
from projects.bioscan_clip.inference.barcodes import UNLIKE_COI
from projects.bioscan_clip.inference.building import model_of
from projects.bioscan_clip.inference.embedding import PART, Crop, Embed, vectors
from projects.bioscan_clip.inference.identify import Queries, identify
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.outputs import Format, check_format, write_results
from projects.bioscan_clip.inference.parts import Parts
from projects.bioscan_clip.scoring.calibration import precision_step
from projects.bioscan_clip.scoring.restriction import Restriction


@dataclass(frozen=True)
class Identify:
    """Embed and name a table of specimens; see :func:`identify_to_file` for what it takes."""

    embed: Embed
    library: str
    restrict_to: str | None
    precision: float
    top_k: int

    def __call__(self, table: pd.DataFrame) -> pa.Table:
        """Return names, with ``id`` in front and ``error`` and ``note`` at the end."""
        embedded = self.embed(table)
        described = embedded.select(["id", "barcode", "error", "note"]).to_pandas()
        queries = Queries(
            vectors(embedded, "rgb"),
            vectors(embedded, "dna"),
            described["barcode"].fillna("").tolist(),
        )
        library = _opened(self.library, self.restrict_to)
        named = name_specimens(library, queries, described, self.precision, self.top_k)
        return pa.Table.from_pandas(named, preserve_index=False)


def name_specimens(
    library: ReferenceLibrary,
    queries: Queries,
    described: pd.DataFrame,
    precision: float,
    top_k: int,
) -> pd.DataFrame:
    """Return what every list of names has, with the same columns and types for any specimens.

    Parameters
    ----------
    library, queries, precision, top_k
        See :func:`~projects.bioscan_clip.inference.identify.identify`.
    described : pandas.DataFrame
        ``id``, ``error`` and ``note`` of each query.

    Returns
    -------
    pandas.DataFrame
        ``id`` in front, then the names, with ``error`` and ``note`` at the end. A barcode that
        looks like none gets no name.
    """
    unlike = described["note"].str.contains(UNLIKE_COI, regex=False).to_numpy(dtype=bool)
    if queries.dna is not None and unlike.any():
        # What such a text is nearest to is a matter of chance, and yet would get a confidence.
        queries = replace(queries, dna=np.where(unlike[:, None], np.float32(0), queries.dna))
    named = identify(library, queries, precision, top_k)
    named.insert(0, "id", described["id"])
    return _with_all_columns(named.assign(error=described["error"], note=described["note"]))


def identify_to_file(
    library: Path,
    table: pd.DataFrame,
    out: Path,
    *,
    model: str | None = None,
    precision: float = 0.95,
    restrict_to: str | None = None,
    top_k: int = 5,
    crop: Crop = "none",
    save_crops: Path | None = None,
    form: Format = "table",
    force: bool = False,
) -> pd.DataFrame:
    """Name specimens and write the names to a file.

    Parameters
    ----------
    library : pathlib.Path
        A reference library.
    table : pandas.DataFrame
        From :func:`~projects.bioscan_clip.inference.inputs.read_inputs`.
    out : pathlib.Path
        See :func:`~projects.bioscan_clip.inference.outputs.write_results`, also for `form`.
    model : str, optional
        Where the library's model is, if not where it was.
    precision, top_k
        See :func:`~projects.bioscan_clip.inference.identify.identify`.
    restrict_to : str, optional
        Taxa that may be named: ``order=Diptera``, several joined by commas; or a checklist's path.
    crop, save_crops, force
        How photos are cut, where crops are written, and whether a file is replaced.

    Returns
    -------
    pandas.DataFrame
        ``id``, ``accepted_rank`` and ``error`` of every specimen.
    """
    check_format(out, form)
    check_output(out, force=force)
    precision_step(precision)
    opened = ReferenceLibrary.open(library)
    source = model_of(opened, model)
    embed = Embed(source, crop, save_crops)
    work = Identify(embed, str(library), restrict_to, precision, top_k)
    chosen = _opened(str(library), restrict_to)  # says now if nothing is of these taxa
    options = {
        "precision": precision,
        "restrict_to": restrict_to,
        "top_k": top_k,
        "crop": crop,
        "save_crops": save_crops and str(save_crops),
    }
    about = {
        "version": version("bioscan-clip"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": source,
        "model_hash": opened.model_hash,
        "library": str(library),
        "library_hash": opened.hash,
        "library_specimens": len(chosen),
        "calibrated": sorted(opened.about["calibration"]),
        "specimens": len(table),
        **options,
    }
    key = {"library": about["library_hash"], **options, "work": "identify"}
    parts = Parts(out, table, PART, key)
    parts.run(work, "Identifying")

    def read() -> Iterator[pd.DataFrame]:
        return (part.to_pandas() for part in parts.read())

    write_results(read, out, form, about)
    summary = pd.concat(
        [part[["id", "accepted_rank", "error"]] for part in read()], ignore_index=True
    )
    parts.remove()
    return summary


def print_summary(named: pd.DataFrame, out: Path) -> None:
    """Print how many specimens got a name at which rank."""
    print("Specimens, by the deepest rank whose name is accepted:")
    counts = named["accepted_rank"].value_counts()
    for rank in reversed(RANKS):
        print(f"{rank:9}{counts.get(rank, 0):8,}")
    print(f"no name  {int(named['accepted_rank'].isna().sum()):8,}")
    failed = int((named["error"] != "").sum())
    print(f"Wrote {out}: {len(named):,} specimens, {failed:,} with an error")


@lru_cache(maxsize=2)
def _opened(folder: str, restrict_to: str | None) -> ReferenceLibrary:
    library = ReferenceLibrary.open(folder)
    return library if restrict_to is None else library.restrict_to(_restriction(restrict_to))


def _restriction(text: str) -> Restriction:
    return Path(text) if "=" not in text or Path(text).exists() else parse_taxa(text)


def parse_taxa(text: str) -> dict[str, list[str]]:
    """Return names by rank, as in ``order=Diptera,order=Coleoptera``."""
    taxa: dict[str, list[str]] = {}
    for pair in text.split(","):
        rank, _, name = pair.partition("=")
        taxa.setdefault(rank.strip(), []).append(name.strip())
    return taxa


def _with_all_columns(named: pd.DataFrame) -> pd.DataFrame:
    """Give a part the types that every part has, also one in which nothing was named."""
    texts = ("id", "query", "answer", "accepted_rank", "accepted_name", "conflict", "error", "note")
    for column in named:
        name = str(column)
        if name in texts or f"{name}_confidence" in named:
            named[name] = named[name].astype("string")
        elif name.endswith("_accepted"):
            named[name] = named[name].astype("boolean")
        elif name.startswith("nearest_"):
            named[name] = named[name].map(lambda values: values if isinstance(values, list) else [])
        else:
            named[name] = named[name].astype(np.float64)
    return named
