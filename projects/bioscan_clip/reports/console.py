"""The accuracies that papers report, as a table in the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from projects.bioscan_clip.datasets.schema import RANKS

_PAIRS = ("rgb_to_dna", "rgb_to_rgb", "dna_to_dna")
_SPLITS = ("seen", "unseen", "harmonic")


def print_accuracy(
    results: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print top-1 accuracy in percent of the pairs that papers report.

    Parameters
    ----------
    results : mapping of str to float
        As :func:`~projects.bioscan_clip.tasks.evaluate_embeddings` names them.
    sizes : mapping of str to int, optional
        Numbers of specimens by role, for the title, which names those of keys and of the table's
        queries.
    console : rich.console.Console, optional
        Where to; standard output if None.
    """
    title = "Top-1 accuracy in percent"
    if sizes:
        named = [f"{sizes[role]:,} {role}" for role in ("keys", *_SPLITS) if role in sizes]
        title += f" ({', '.join(named)})"
    table = Table(title=title, title_justify="left")
    for heading in ("query to key", "average", "split"):
        table.add_column(heading)
    for rank in RANKS:
        table.add_column(rank, justify="right")
    for pair in _PAIRS:
        for average in ("micro", "macro"):
            for split in _SPLITS:
                values = [results.get(f"{pair}/{split}/{average}/top1/{rank}") for rank in RANKS]
                if any(value is not None for value in values):
                    cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
                    table.add_row(pair.replace("_", " "), average, split, *cells)
        table.add_section()
    (console or Console()).print(table)
