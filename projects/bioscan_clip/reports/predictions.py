"""What every query was taken for, specimen by specimen."""

from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import PAIRS, Match


def save_predictions(evaluation: Evaluation, folder: Path) -> Path:
    """Write ``predictions.parquet``: a row per query specimen and pair of features.

    The rows are those of :func:`predictions` for the pairs that papers report.

    Parameters
    ----------
    evaluation : Evaluation
        What was found, among sets with tables.
    folder : pathlib.Path
        Where to.

    Returns
    -------
    pathlib.Path
        The file.
    """
    matches = [Match(*pair, split) for pair in PAIRS for split in evaluation.queries]
    found = [match for match in matches if match in evaluation.neighbours]

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for match in found:  # one at a time, so that memory holds one
                table = predictions(evaluation, match)
                writer.write_table(pa.Table.from_pandas(table, _SCHEMA, preserve_index=False))

    return write_whole(folder / "predictions.parquet", write)


_SCHEMA: Final = pa.schema(
    [(name, pa.string()) for name in ("split", "query", "key", *IDENTIFIERS)]
    + [(f"true_{rank}", pa.string()) for rank in RANKS]
    + [(f"predicted_{rank}", pa.string()) for rank in RANKS]
    + [
        ("similarity", pa.float32()),
        ("key_sampleids", pa.list_(pa.string())),
        ("key_rows", pa.list_(pa.int64())),
        ("similarities", pa.list_(pa.float32())),
    ]
)


def predictions(evaluation: Evaluation, match: Match) -> pd.DataFrame:
    """Put each query of a split beside its nearest keys.

    Parameters
    ----------
    evaluation : Evaluation
        What was found, among sets with tables.
    match : Match
        Features of queries and keys, and the split.

    Returns
    -------
    pandas.DataFrame
        One row per query, in their order. Columns: ``split``, ``query``, ``key``; the query's
        ``sampleid``, ``processid`` and ``image_file``, as far as known; ``true_{rank}`` and
        ``predicted_{rank}`` (of the nearest key), missing where unknown; ``similarity`` to the
        nearest key; and of the nearest keys, nearest first, lists of ``key_sampleids``,
        ``key_rows`` (their rows among the keys) and ``similarities``.
    """
    queries, keys = evaluation.queries[match.split].names, evaluation.keys.names
    near = evaluation.neighbours[match]
    rows, similarities = near.keys.cpu().numpy(), near.similarities.cpu().numpy()
    key_ids = keys["sampleid"].to_numpy(dtype=object, copy=True)
    key_ids[keys["sampleid"].isna()] = None
    columns = {
        "split": match.split,
        "query": match.query,
        "key": match.key,
        **{name: queries[name] for name in IDENTIFIERS},  # CLIBD's files hold but one of them
        **{f"true_{rank}": queries[rank] for rank in RANKS},
        **{f"predicted_{rank}": keys[rank].array[rows[:, 0]] for rank in RANKS},
        "similarity": similarities[:, 0],
        "key_sampleids": list(key_ids[rows]),
        "key_rows": list(rows),
        "similarities": list(similarities),
    }
    return pd.DataFrame(columns)
