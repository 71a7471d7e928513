"""Zero-shot learning on INSECT with a trained model's embeddings."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.insect import Insect, read_insect
from projects.bioscan_clip.files import check_output, progress
from projects.bioscan_clip.inference.model import Encoded, Model, load_model
from projects.bioscan_clip.reports.text_table import Format
from projects.bioscan_clip.reports.zero_shot import zero_shot_table
from projects.bioscan_clip.scoring.bzsl import ZeroShot, zero_shot

_AT_ONCE: Final = 1024  # photos that are read before they are embedded


def bzsl(
    model: str, data: Path, form: Format = "rich", out: Path | None = None, force: bool = False
) -> ZeroShot:
    """Score a model on INSECT, and print a table beside published figures.

    Parameters
    ----------
    model : str
        A checkpoint or the folder of a run.
    data : pathlib.Path
        See :func:`~projects.bioscan_clip.datasets.insect.read_insect`.
    form : {"rich", "markdown", "latex", "csv"}
        Form of the file or, if none is named, of what is printed.
    out : pathlib.Path, optional
        The file.
    force : bool, default=False
        Whether a file that is there is replaced.

    Returns
    -------
    ZeroShot
        The accuracies.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        If files are missing or damaged, a photo or all barcodes of a species cannot be embedded,
        or the output cannot be written.
    """
    if out is not None:
        check_output(out, force=force)
    insect, loaded = read_insect(data), load_model(model)
    side = _class_means(loaded, insect)
    if insect.features is None:
        photos, what = _embed_photos(loaded, insect), "its embeddings of photos and barcodes"
    else:
        photos, what = insect.features, "ResNet-101 features of photos, its embeddings of barcodes"
    found = zero_shot(photos, side, insect.labels, insect.splits)
    tested = {name: len(insect.splits[f"test_{name}"]) for name in ("unseen", "seen")}
    zero_shot_table(found, f"{model}, {what}", tested).show(form, out)
    return found


def _class_means(model: Model, insect: Insect) -> npt.NDArray[np.float64]:
    """Return the mean embedding of each species' barcodes, ``(C, D)``."""
    encoded = model.encode_dna(insect.barcodes, show_progress=True, on_error="skip")
    known = ~np.isnan(encoded.embeddings[:, 0])
    counts = np.bincount(insect.labels, weights=known)
    if not counts.all():
        row = int(np.flatnonzero(insect.labels == counts.argmin())[0])
        raise ValueError(
            f"No barcode of the species of {insect.ids[row]} can be embedded: {encoded.errors[row]}"
        )
    sums = np.zeros((len(counts), encoded.embeddings.shape[1]))
    np.add.at(sums, insect.labels[known], encoded.embeddings[known])
    return sums / counts[:, None]


def _embed_photos(model: Model, insect: Insect) -> npt.NDArray[np.float32]:
    parts: list[npt.NDArray[np.float32]] = []
    with progress("Photos", len(insect.ids)) as advance:
        for photos in insect.read_photos(_AT_ONCE):
            encoded: Encoded = model.encode_image(photos, on_error="skip")
            for row, reason in encoded.errors.items():
                name = insect.ids[len(parts) * _AT_ONCE + row]
                raise ValueError(f"{insect.photos}, images/{name}: {reason}")
            parts.append(encoded.embeddings)
            advance(len(photos))
    return np.concatenate(parts)
