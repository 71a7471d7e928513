"""Barcodes as people have them: species accuracy with and without placement, and its speed.

    python benchmarks/barcodes.py --model RUN --data FILE [--quick]

compares, on the barcodes of seen test species against those of the keys, the accuracy of a trained
model for barcodes that are cut, reversed, written otherwise or have primers; and ways of placing
them. Without a model only the ways of placing are compared, on invented barcodes.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import edlib
import h5py
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import shortest

from projects.bioscan_clip.inference import BarcodePlacer, load_model
from projects.bioscan_clip.sample.barcodes import BARCODE_LENGTH, evolve_barcodes
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
SPECIES, QUICK_SPECIES = 1_000, 200
Change = Callable[[str, np.random.Generator], str]


def random_bases(length: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("ACGT"), length))


def with_gaps(barcode: str, rng: np.random.Generator) -> str:
    places = sorted(rng.integers(0, len(barcode), 4).tolist())
    return "---".join(barcode[a:b] for a, b in zip([0, *places], [*places, None], strict=True))


def cut(start: int, end: int) -> Change:
    return lambda barcode, rng: barcode[start : len(barcode) - end]


CHANGES: dict[str, tuple[Change, tuple[int, int]]] = {
    "as it is": (cut(0, 0), (0, 0)),
    "1 base cut from the start": (cut(1, 0), (1, 0)),
    "5 bases": (cut(5, 0), (5, 0)),
    "25 bases": (cut(25, 0), (25, 0)),
    "60 bases": (cut(60, 0), (60, 0)),
    "200 bases cut from the end": (cut(0, 200), (0, 200)),
    "60 and 200": (cut(60, 200), (60, 200)),
    "primers of 25 and 26 bases": (
        lambda b, rng: random_bases(25, rng) + b + random_bases(26, rng),
        (0, 0),
    ),
    "primer of 30 bases": (lambda b, rng: random_bases(30, rng) + b, (0, 0)),
    "reverse complement": (lambda b, rng: b.translate(COMPLEMENT)[::-1], (0, 0)),
    "lower case": (lambda b, rng: b.lower(), (0, 0)),
    "gaps of an alignment": (with_gaps, (0, 0)),
}


def masked(barcode: str, missing: tuple[int, int]) -> str:
    """Return the barcode with N where bases are missing."""
    start, end = missing
    return "N" * start + barcode[start : len(barcode) - end] + "N" * end


def by_edlib(references: Sequence[str]) -> Callable[[str], int]:
    """Place by one alignment with the consensus of the references, on both strands."""
    columns = np.array(references).view("U1").reshape(len(references), -1)
    bases = np.array(list("ACGT"))
    counts = np.stack([(columns == base).sum(axis=0) for base in bases])
    consensus = "".join(bases[counts.argmax(axis=0)])

    def place(barcode: str) -> int:
        strands = (barcode, barcode.translate(COMPLEMENT)[::-1])
        found = [edlib.align(strand, consensus, mode="HW", task="locations") for strand in strands]
        best = min(found, key=lambda alignment: alignment["editDistance"])
        return int(best["locations"][0][0] or 0)

    return place


def compare_placing(species: int, console: Console) -> None:
    rng = np.random.default_rng(0)
    taxonomy = grow_taxonomy(species, rng)
    evolved = evolve_barcodes(len(taxonomy.names[0]), taxonomy.parents, rng)[:, :BARCODE_LENGTH]
    barcodes = [row.tobytes().decode() for row in evolved]
    references, queries = barcodes[::2], barcodes[1::2]
    placer, align = BarcodePlacer(references), by_edlib(references)
    table = Table(title=f"First base found, {len(queries)} species that no reference is of")
    for heading in ("bases cut from the start", "votes of k-mers", "edlib with a consensus"):
        table.add_column(heading, justify="right")
    for start in (0, 1, 5, 25, 60):
        given = [barcode[start:] for barcode in queries]
        votes = np.mean([placed.shift == start for placed in placer.prepare(given)])
        aligned = np.mean([align(barcode) == start for barcode in given])
        table.add_row(str(start), f"{votes:.1%}", f"{aligned:.1%}")
    given = [barcode[7:] for barcode in queries]
    ours = len(given) / shortest(lambda: placer.prepare(given), 3)
    theirs = len(given) / shortest(lambda: [align(barcode) for barcode in given], 3)
    table.add_row("barcodes/s on one core", f"{ours:,.0f}", f"{theirs:,.0f}")
    console.print(table)
    console.print(f"Votes against edlib: {ours / theirs:.1f} x as fast")


def compare_accuracy(source: Path, data: Path, console: Console) -> None:
    model = load_model(source, device="cpu")
    with h5py.File(data) as file:
        keys, queries = (
            (
                [barcode.decode() for barcode in file[split]["barcode"]],
                file[split]["species"][:],
            )
            for split in ("all_keys", "test_seen")
        )
        references = [barcode.decode() for barcode in file["train_seen"]["barcode"][:500]]
    # As in a model that was trained on this file: samples of different seeds invent other regions.
    model.placer = BarcodePlacer(references)
    # Those that are whole; of others it is not known which bases are missing already.
    whole = [row for row, barcode in enumerate(queries[0]) if len(barcode) == BARCODE_LENGTH]
    barcodes, species = [queries[0][row] for row in whole], queries[1][whole]
    embedded_keys = {place: model.encode_dna(keys[0], place=place) for place in (False, True)}

    def accuracy(some: list[str], place: bool) -> float:
        similarities = model.encode_dna(some, place=place) @ embedded_keys[place].T
        return float((keys[1][similarities.argmax(axis=1)] == species).mean())

    table = Table(title=f"Species accuracy of {len(barcodes)} barcodes, DNA to DNA, seen species")
    for heading in ("", "as read", "placed", "N for what is missing"):
        table.add_column(heading, justify="right")
    rng = np.random.default_rng(0)
    for name, (change, missing) in CHANGES.items():
        given = [change(barcode, rng) for barcode in barcodes]
        expected = [masked(barcode, missing) for barcode in barcodes]
        scores = accuracy(given, False), accuracy(given, True), accuracy(expected, True)
        table.add_row(name, *(f"{score:.1%}" for score in scores))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a run's folder or a checkpoint")
    parser.add_argument(
        "--data", type=Path, help="the HDF5 file it was trained on, or a sample of another seed"
    )
    parser.add_argument("--quick", action="store_true", help="fewer barcodes")
    arguments = parser.parse_args()
    console = Console(width=100)
    compare_placing(QUICK_SPECIES if arguments.quick else SPECIES, console)
    if arguments.model and arguments.data:
        compare_accuracy(arguments.model, arguments.data, console)


if __name__ == "__main__":
    main()
