"""A synthetic file in the BIOSCAN-1M schema: invented insects to try things on."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.processes import processes_for
from projects.bioscan_clip.data_tools.splits import partition, rows_of_splits
from projects.bioscan_clip.data_tools.writing import SplitSource, write_file
from projects.bioscan_clip.datasets.names import SAMPLE_VOCABULARY, TaxonTokenizer
from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.files import progress
from projects.bioscan_clip.sample.photos import draw_photo
from projects.bioscan_clip.sample.specimens import collect_specimens
from projects.bioscan_clip.sample.taxonomy import IntArray, grow_taxonomy
from projects.bioscan_clip.sample.traits import TraitArray, evolve_traits

# With fewer, a split could be empty.
_MIN_SPECIES: Final = 12
_MIN_SPECIMENS_PER_SPECIES: Final = 15

_UNDESCRIBED_PER_SPECIES = 0.25


def write_sample(
    path: Path,
    n_species: int = 200,
    n_specimens: int = 4000,
    seed: int = 0,
    processes: int | None = None,
) -> None:
    """Write a synthetic file in the BIOSCAN-1M schema.

    Barcodes and looks evolve down one taxonomy, so that photos, barcodes and names tell the same
    story, and an unseen species resembles its genus. The same arguments give the same bytes,
    whatever the number of processes.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file. It appears when it is complete, in place of an older one.
    n_species : int, default=200
        Number of species that labels name, at least 12.
    n_specimens : int, default=4000
        Number of specimens, at least 15 per species.
    seed : int, default=0
        Seed of all chance, not negative.
    processes : int, optional
        Processes that draw photos. Defaults to the number of available cores.

    Raises
    ------
    ValueError
        If `n_species` or `n_specimens` is too small, or an unfinished file of another size or seed
        is in the way.
    OSError
        If the file cannot be written.
    """
    _check_sizes(n_species, n_specimens)
    rng = np.random.default_rng(seed)
    taxonomy = grow_taxonomy(n_species + round(_UNDESCRIBED_PER_SPECIES * n_species), rng)
    specimens = collect_specimens(taxonomy, n_species, n_specimens, rng)
    traits = evolve_traits(taxonomy.names[0], taxonomy.parents, rng)

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path.parent) as spool:
        lengths = _draw_photos(spool, traits[specimens.species], seed, processes)
        columns = specimens.columns | TaxonTokenizer(SAMPLE_VOCABULARY)(specimens.names)
        jpegs = np.memmap(spool, dtype=np.uint8, mode="r")
        splits = rows_of_splits(partition(specimens.columns[RANKS[-1]], seed))
        sources = {name: _source(rows, columns, lengths, jpegs) for name, rows in splits.items()}
        write_file(path, sources, identity=f"sample {n_species} {n_specimens} {seed}")


def _check_sizes(n_species: int, n_specimens: int) -> None:
    if n_species < _MIN_SPECIES:
        raise ValueError(f"A sample needs at least {_MIN_SPECIES} species, but got {n_species}.")
    fewest = _MIN_SPECIMENS_PER_SPECIES * n_species
    if n_specimens < fewest:
        raise ValueError(
            f"A sample of {n_species} species needs at least {fewest} specimens, "
            f"{_MIN_SPECIMENS_PER_SPECIES} per species, but got {n_specimens}."
        )


def _draw_photos(
    spool: IO[bytes], traits: TraitArray, seed: int, processes: int | None
) -> IntArray:
    """Append one JPEG per row of `traits` to a file and return their lengths."""
    lengths = np.zeros(len(traits), dtype=np.int64)
    seeds = [(seed, number) for number in range(1, len(traits) + 1)]
    with (
        processes_for("drew photos", processes) as pool,
        progress("Drawing photos", len(traits)) as advance,
    ):
        for specimen, jpeg in enumerate(pool.map(draw_photo, traits, seeds, chunksize=8)):
            lengths[specimen] = spool.write(jpeg)
            advance()
    spool.flush()
    return lengths


def _source(
    rows: IntArray,
    columns: Mapping[str, npt.NDArray[Any]],
    lengths: IntArray,
    jpegs: npt.NDArray[np.uint8],
) -> SplitSource:
    """Return the specimens of one split; `jpegs` holds the photos of all, one after the other."""
    starts = np.cumsum(lengths) - lengths

    def read_photos(block: slice) -> list[npt.NDArray[np.uint8]]:
        chosen = rows[block]
        places = zip(starts[chosen], lengths[chosen], strict=True)
        return [jpegs[start : start + length] for start, length in places]

    return SplitSource(
        len(rows),
        {name: (column.dtype, column.shape[1:]) for name, column in columns.items()},
        lambda block: {name: column[rows[block]] for name, column in columns.items()},
        lengths[rows],
        read_photos,
    )
