"""Reference libraries: a million specimens opened and searched; barcodes beside vsearch.

`python benchmarks/library.py [--quick] [MODEL]`; MODEL is the demo's unless named.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a shared machine waiting threads cost

import numpy as np
import pandas as pd
import torch
from timing import QUICK

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.inference import load_model
from projects.bioscan_clip.inference.embedding import label_codes
from projects.bioscan_clip.inference.identify import Queries, identify
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.sample.specimens import collect_specimens
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy
from projects.bioscan_clip.scoring.specimens import Specimens

SPECIMENS: Final = 5_000 if QUICK else 1_000_000
QUERIES: Final = 20 if QUICK else 1_000
WIDTH: Final = 768
KNOWN: Final = 300 if QUICK else 21_000
ASKED: Final = 60 if QUICK else 10_000
SPECIES: Final = 20 if QUICK else 1_000
MISSING: Final = 5  # one in so many species is not in the library
THREADS: Final = 2


def main() -> None:
    torch.set_num_threads(THREADS)
    if "--search" in sys.argv:
        search(Path(sys.argv[-1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ReferenceLibrary.build(folder / "large", drawn(), "random")
        # In a process of its own, so that its memory is that of the search.
        arguments = [sys.executable, __file__, *(["--quick"] if QUICK else []), "--search"]
        subprocess.run([*arguments, str(folder / "large")], check=True)
        shutil.rmtree(folder / "large")
        named = [text for text in sys.argv[1:] if not text.startswith("--")]
        model = Path(named[0] if named else "outputs/demo/train")
        if shutil.which("vsearch") is None or not model.exists():
            print("Without vsearch and a trained model (`make demo`), no barcodes are compared.")
            return
        compare(folder, model)


def drawn():
    """Draw specimens of 2,000 species, a part at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, SPECIMENS, 1 << 16):
        count = min(1 << 16, SPECIMENS - start)
        species = torch.randint(0, 2000, (count,), generator=generator)
        table = pd.DataFrame(
            {
                "sampleid": [f"S{row}" for row in range(start, start + count)],
                "species": [f"species {one}" for one in species.tolist()],
                "barcode": "ACGTACGTAC" * 66,
            }
        )
        yield Specimens(
            torch.stack([species // 500, species // 20, species // 4, species], dim=1),
            dna=torch.randn((count, WIDTH), generator=generator),
            table=table,
        )


def search(folder: Path) -> None:
    queries = np.random.default_rng(0).normal(size=(QUERIES, WIDTH)).astype(np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = clock()
    library = ReferenceLibrary.open(folder)
    opened = clock()
    found = library.search(queries, "dna", 20)
    searched = clock()
    library.table(found.rows[:, :5].ravel())
    looked_up = clock()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    print(f"{len(library):,} specimens of {WIDTH} dimensions, {size:.1f} GB, {THREADS} threads")
    print(f"opening: {describe(opened - start)}")
    print(f"{QUERIES:,} exact queries: {describe(searched - opened)}")
    print(f"names of the 5 nearest: {describe(looked_up - searched)}")
    print(f"memory above that of Python {memory:7.1f} GB, pages of the files included")


def compare(folder: Path, source: Path) -> None:
    """Name barcodes by the library and by vsearch's nearest, of species that are there or not."""
    rng = np.random.default_rng(1)
    taxonomy = grow_taxonomy(round(1.25 * SPECIES), rng)
    columns = collect_specimens(taxonomy, SPECIES, 2 * (KNOWN + ASKED), rng).columns
    table = pd.DataFrame(
        {name: columns[name].astype(str) for name in (*RANKS, "sampleid", "barcode")}
    )
    table = table[table["species"] != "not_classified"].reset_index(drop=True)
    missing = np.isin(table["species"], np.unique(table["species"])[::MISSING])
    known = table[~missing].head(KNOWN)
    rest = table.drop(known.index).sample(frac=1, random_state=0)
    there = rest["species"].isin(known["species"])
    asked = {
        "species in the library": rest[there].head(ASKED // 2),
        "species not in the library": rest[~there].head(ASKED // 2),
    }
    model = load_model(source)

    def embed(barcodes: pd.Series) -> tuple[np.ndarray, list[str]]:
        placed = [prepared.text for prepared in model.placer.prepare(barcodes.tolist())]
        return model.encode_dna(placed, place=False), placed

    dna, placed = embed(known["barcode"])
    placed_known = known.assign(barcode=placed)
    library = ReferenceLibrary.build(
        folder / "barcodes",
        Specimens(
            torch.from_numpy(label_codes(known)), dna=torch.from_numpy(dna), table=placed_known
        ),
        model.hash,
    )
    write_fasta(folder / "known.fasta", known)
    species = known["species"].nunique()
    print(f"{len(known):,} known barcodes of {species:,} species, {THREADS} threads")
    for what, part in asked.items():
        start = clock()
        vectors, placed = embed(part["barcode"])
        embedded = clock() - start
        ours = identify(library, Queries(dna=vectors, barcodes=placed), 0.9)
        took = clock() - start
        write_fasta(folder / "asked.fasta", part)
        start = clock()
        theirs = vsearch(folder, known).reindex(part["sampleid"])
        theirs_took = clock() - start
        print(f"{len(part):,} barcodes, {what} (embedding them: {describe(embedded)}):")
        for name, seconds, answers in (
            ("this project", took, ours),
            ("vsearch", theirs_took, theirs),
        ):
            shares = "  ".join(
                f"{rank} {(answers[rank].to_numpy() == part[rank].to_numpy()).mean():.3f}"
                for rank in RANKS
            )
            print(f"  {name:13}{describe(seconds)}   right: {shares}")


def clock() -> np.ndarray:
    """Return the time, and that of the processor in this process and its children, in seconds."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return np.array([time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)])


def describe(seconds: np.ndarray) -> str:
    return f"{seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time"


def write_fasta(path: Path, table: pd.DataFrame) -> None:
    rows = zip(table["sampleid"], table["barcode"], strict=True)
    path.write_text("".join(f">{name}\n{barcode}\n" for name, barcode in rows))


def vsearch(folder: Path, known: pd.DataFrame) -> pd.DataFrame:
    """Return the names of each query's best hit."""
    command = ["vsearch", "--usearch_global", "asked.fasta", "--db", "known.fasta", "--id", "0.7"]
    options = ["--threads", str(THREADS), "--blast6out", "hits.b6", "--quiet"]
    subprocess.run([*command, *options], cwd=folder, check=True)
    hits = pd.read_csv(folder / "hits.b6", sep="\t", header=None, usecols=[0, 1])
    names = known.set_index("sampleid").loc[hits[1], list(RANKS)]
    return names.set_index(hits[0])


if __name__ == "__main__":
    main()
