"""From files to a reference library, and to what it is calibrated on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from projects.bioscan_clip.encoders.pretrained import HUB, absolute
from projects.bioscan_clip.inference.embedding import (
    Crop,
    as_specimens,
    embed_inputs,
    failed,
    loaded_model,
    model_hash_of,
)
from projects.bioscan_clip.inference.identify import Queries, calibrate
from projects.bioscan_clip.inference.inputs import read_inputs
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.parts import Slurm
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings
from projects.bioscan_clip.scoring.specimens import Specimens

_EMBEDDINGS: Final = "embeddings.hdf5"
NOTHING_FAILED: Final = pd.DataFrame({"id": [], "error": []}, dtype="string")


def specimens_from(
    sources: Sequence[str],
    model: str,
    beside: Path,
    *,
    labelled: bool = False,
    split: str | None = None,
    photos: Path | None = None,
    taxonomy: Path | None = None,
    crop: Crop = "none",
    slurm: Slurm | None = None,
) -> tuple[list[Specimens], pd.DataFrame]:
    """Read or make embeddings of specimens.

    Parameters
    ----------
    sources : sequence of str
        What :func:`~projects.bioscan_clip.inference.inputs.read_inputs` takes; or one that is
        embedded already: ``embeddings.hdf5`` of a run, its folder, or a ``.parquet`` file that
        `bioscan-clip embed` has written.
    model : str
        Embeds what is not embedded.
    beside : pathlib.Path
        Beside this, unfinished :class:`~projects.bioscan_clip.inference.parts.Parts` lie.
    labelled : bool
        Of a run's embeddings, whether to take its validation queries instead of its keys.
    split, photos, taxonomy
        See :func:`~projects.bioscan_clip.inference.inputs.read_inputs`.
    crop, slurm
        See :func:`~projects.bioscan_clip.inference.embedding.embed_inputs`.

    Returns
    -------
    tuple
        The specimens in parts, and ``id`` and ``error`` of those that could not be embedded.

    Raises
    ------
    ValueError
        If embeddings are of another model, or none could be made.
    """
    if len(sources) == 1:
        embedded = _embedded(Path(sources[0]), loaded_model(model).hash, labelled)
        if embedded is not None:
            return embedded, NOTHING_FAILED
    table = read_inputs(sources, split, photos, taxonomy)
    # A library says where its photos are, to whoever shows them, from wherever.
    absolute = table["photo"].map(lambda place: str(Path(place).absolute()), na_action="ignore")
    table = table.assign(photo=absolute.astype("string"))
    parts = embed_inputs(model, table, beside, crop, slurm)
    specimens = [as_specimens(part) for part in parts.read()]
    bad = failed(parts)
    parts.remove()
    return [part for part in specimens if len(part)], bad


def build_library(
    folder: Path, sources: Sequence[str], model: str, force: bool = False, **how: Any
) -> pd.DataFrame:
    """Build a library of files; see :func:`specimens_from` for the parameters."""
    if (folder / "library.json").exists() and not force:
        raise FileExistsError(f"{folder} is a library. Use --force to replace it.")
    specimens, bad = specimens_from(sources, model, folder, **how)
    ReferenceLibrary.build(
        folder,
        specimens,
        loaded_model(model).hash,
        model=absolute(model),
        sources=sources,
        force=force,
    )
    return bad


def add_to_library(
    folder: Path, sources: Sequence[str], model: str | None = None, **how: Any
) -> pd.DataFrame:
    """Add the specimens of files; see :func:`specimens_from` for the parameters."""
    library = ReferenceLibrary.open(folder)
    model = model_of(library, model)
    specimens, bad = specimens_from(sources, model, folder, **how)
    library.add(specimens, library.model_hash)
    return bad


def calibrate_library(
    folder: Path, labelled: Sequence[str], model: str | None = None, **how: Any
) -> pd.DataFrame:
    """Calibrate a library on specimens of known names; see :func:`specimens_from`."""
    library = ReferenceLibrary.open(folder)
    model = model_of(library, model)
    parts, bad = specimens_from(labelled, model, folder, labelled=True, **how)
    if not parts:
        raise ValueError(f"None of {', '.join(labelled)} could be embedded.")
    specimens = Specimens.concatenate(parts)
    assert specimens.table is not None
    barcodes = specimens.table.get("barcode")
    queries = Queries(
        None if specimens.rgb is None else specimens.rgb.numpy(),
        None if specimens.dna is None else specimens.dna.numpy(),
        None if barcodes is None else barcodes.fillna("").tolist(),
    )
    own = specimens.table["sampleid"].dropna().tolist()
    library.set_calibration(calibrate(library, queries, specimens.labels.numpy(), own))
    return bad


def model_of(library: ReferenceLibrary, model: str | None = None) -> str:
    """Return the library's model, or another place of it; a different model is refused."""
    source = model or str(library.about["model"]["source"])
    if not source or not (source.startswith(HUB) or Path(source).expanduser().exists()):
        raise FileNotFoundError(
            f"The model of {library.folder} is not at {source or 'a known place'} any more; say "
            "where it is with --model."
        )
    library.check_model(loaded_model(source).hash)
    return source


def print_library(folder: Path) -> None:
    """Print what a library holds, and what it is calibrated on."""
    library = ReferenceLibrary.open(folder)
    about = library.about
    labels = library.labels[library.kept]
    taxa = [len(np.unique(codes[codes >= 0])) for codes in labels.T]
    counts = {
        name: sum(segment[name] for segment in about["segments"])
        for name in ("rgb", "dna", "barcodes")
    }
    indexes = [f"{name} at recall {part['recall']:.3f}" for name, part in about["index"].items()]
    calibrated = [
        f"{kind} ({part['calibration']['specimens']:,} specimens)"
        for kind, part in about["calibration"].items()
    ]
    lines = {
        "Specimens": f"{len(library):,} ({int((~library.kept).sum()):,} removed)",
        "Embedded": f"{counts['rgb']:,} photos, {counts['dna']:,} barcodes",
        "Barcodes to align": f"{counts['barcodes']:,}",
        "Taxa": "{:,} orders, {:,} families, {:,} genera, {:,} species".format(*taxa),
        "Model": f"{about['model']['hash'][:12]}, {about['model']['source']}",
        "Sources": ", ".join(about["sources"]),
        "Search": f"by an index ({', '.join(indexes)})" if indexes else "exact",
        "Calibrated for": ", ".join(calibrated)
        or "nothing, so that names come without probabilities; see `library calibrate`",
    }
    for name, text in lines.items():
        print(f"{name + ':':19}{text}")


def _embedded(path: Path, model_hash: str, labelled: bool) -> list[Specimens] | None:
    """Read specimens that are embedded already; None if they are not."""
    if path.name == _EMBEDDINGS or (path.is_dir() and (path / _EMBEDDINGS).is_file()):
        sets, _ = load_embeddings(path)
        if not labelled:
            return [sets["keys"]]
        queries = [part for role, part in sets.items() if role.startswith("tuning")]
        if not queries:
            raise ValueError(
                f"{path} holds no validation queries to calibrate on: it is of a validation, not "
                "of a test. Name specimens of known names that are not the test's."
            )
        return [Specimens.concatenate(queries)]
    if path.suffix == ".parquet" and {"rgb", "dna"} <= set(pq.read_schema(path).names):
        table = pq.read_table(path)
        if model_hash_of(table) != model_hash:
            raise ValueError(f"{path} holds embeddings of another model than the library's.")
        return [as_specimens(table)]
    return None
