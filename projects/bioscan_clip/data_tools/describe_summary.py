"""Tables that sum up what a BIOSCAN HDF5 file holds."""

from typing import Final, Literal

import numpy as np
import pandas as pd

from projects.bioscan_clip.data_tools.describe import TAXA, Description
from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

Role = Literal["training", "keys", "seen queries", "unseen queries", "other"]
Status = Literal["seen", "unseen", "pretraining only", "other"]

WHOLE_FILE: Final = "whole file"
"""Name of the row that counts each specimen once, though it may be in several splits."""

SPECIES: Final = RANKS[-1]

_ID = IDENTIFIERS[0]
_SEEN_SPLITS = ("train_seen", "seen_keys", "val_seen", "test_seen")
_PRETRAINING = ("no_split", "single_species", "no_split_and_seen_train")


def role_of(split: str) -> Role:
    """Return what a split is for."""
    if split in (*_PRETRAINING, "train_seen"):
        return "training"
    if split.endswith("_keys"):
        return "keys"
    if split in ("val_seen", "test_seen"):
        return "seen queries"
    return "unseen queries" if split in ("val_unseen", "test_unseen") else "other"


def distinct_specimens(description: Description) -> pd.DataFrame:
    """Return one row for each specimen, whatever the number of splits it is in."""
    table = description.specimens
    if _ID not in table:
        return table
    return table[(table[_ID] == UNKNOWN) | ~table.duplicated(_ID)]


def species_table(description: Description) -> pd.DataFrame:
    """Return the species with most specimens first.

    Returns
    -------
    pandas.DataFrame
        Index: codes. `specimens`, each counted once; `status`: ``unseen`` if a split of unseen
        species has it, else ``seen`` if one of seen species has, else ``pretraining only`` or
        ``other``.
    """
    if SPECIES not in description.specimens:
        return pd.DataFrame({"specimens": [], "status": []})
    specimens = _known(distinct_specimens(description), SPECIES)[SPECIES].value_counts()
    everywhere = _known(description.specimens, SPECIES)
    groups: dict[Status, list[str]] = {
        "unseen": [split for split in description.splits if "unseen" in split],
        "seen": list(_SEEN_SPLITS),
        "pretraining only": list(_PRETRAINING),
    }
    members = [
        specimens.index.isin(everywhere[SPECIES][everywhere["split"].isin(splits)])
        for splits in groups.values()
    ]
    status = np.select(members, list(groups), default="other")
    return pd.DataFrame({"specimens": specimens, "status": status})


def taxon_counts(description: Description) -> pd.DataFrame:
    """Return how many specimens and taxa there are.

    Returns
    -------
    pandas.DataFrame
        Index: splits and ``whole file``. `specimens`, the number of taxa of each rank and of BINs,
        and how many of the species are `seen` and `unseen`.
    """
    status = species_table(description)["status"]
    counts = {}
    for name, table in _tables(description).items():
        row = {"specimens": len(table)}
        row |= {taxon: _known(table, taxon)[taxon].nunique() for taxon in TAXA if taxon in table}
        if SPECIES in table:
            there = status[status.index.isin(table[SPECIES])]
            row |= {kind: int((there == kind).sum()) for kind in ("seen", "unseen")}
        counts[name] = row
    return pd.DataFrame.from_dict(counts, orient="index")


def missing_labels(description: Description) -> pd.DataFrame:
    """Return the share of specimens whose label is unknown.

    Returns
    -------
    pandas.DataFrame
        Index: splits and ``whole file``; columns: ranks and BIN; values from 0 to 1, NaN for a
        split without rows.
    """
    shares = {
        name: {taxon: (table[taxon] == UNKNOWN).mean() for taxon in TAXA if taxon in table}
        for name, table in _tables(description).items()
    }
    return pd.DataFrame.from_dict(shares, orient="index")


def barcode_lengths(description: Description) -> pd.DataFrame:
    """Return `min`, `median` and `max` of the bases of barcodes, and the share that has an N."""
    if "bases" not in description.specimens:
        return pd.DataFrame()
    tables = _tables(description)
    lengths = _spread({name: table["bases"] for name, table in tables.items()})
    return lengths.assign(with_n=[table["has_n"].mean() for table in tables.values()])


def photo_sizes(description: Description) -> pd.DataFrame:
    """Return `min`, `median` and `max` of the bytes of JPEGs, and `pixels` as text."""
    if "jpeg_bytes" not in description.specimens:
        return pd.DataFrame()
    tables = _tables(description)
    sizes = _spread({name: table["jpeg_bytes"] for name, table in tables.items()})
    pixels = description.pixels
    by_split = [pixels[pixels["split"] == name] for name in description.splits]
    return sizes.assign(pixels=[_pixels(table) for table in (*by_split, pixels)])


def most_frequent(description: Description, rank: str, number: int) -> pd.Series:
    """Return how many specimens the most frequent taxa of a rank have, by name."""
    if rank not in description.specimens:
        return pd.Series(dtype=np.int64)
    table = _known(distinct_specimens(description), rank)
    return table[rank].value_counts().head(number).rename(description.names[rank])


def _tables(description: Description) -> dict[str, pd.DataFrame]:
    table = description.specimens
    each = {name: table[table["split"] == name] for name in description.splits}
    return each | {WHOLE_FILE: distinct_specimens(description)}


def _known(table: pd.DataFrame, taxon: str) -> pd.DataFrame:
    return table[table[taxon] != UNKNOWN]


def _spread(values: dict[str, pd.Series]) -> pd.DataFrame:
    rows = {name: each.agg(["min", "median", "max"]) for name, each in values.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _pixels(sizes: pd.DataFrame) -> str:
    """Return the size of photos, or the range of widths and heights."""
    if sizes.empty:
        return ""
    return " x ".join(
        f"{each.min()}" if each.min() == each.max() else f"{each.min()}-{each.max()}"
        for each in (sizes["width"], sizes["height"])
    )
