"""The table of zero-shot learning on INSECT: a model's accuracy beside published figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from projects.bioscan_clip.reports.text_table import TextTable
from projects.bioscan_clip.scoring.bzsl import ZeroShot

_SPLITS: Final = ("unseen", "seen", "harmonic")


def zero_shot_table(found: ZeroShot, about: str, tested: Mapping[str, int]) -> TextTable:
    """Set what a model reaches beside what was published.

    Parameters
    ----------
    found : ZeroShot
        Accuracies and what was tuned.
    about : str
        What was scored: the model, and what stands for photos and barcodes.
    tested : mapping of str to int
        Numbers of test photos, of ``unseen`` and ``seen`` classes.

    Returns
    -------
    TextTable
        Accuracies in percent. CSV has columns ``source`` (``this model``, or a method's name),
        ``split`` (``unseen``, ``seen``, ``harmonic``), ``percent``, and ``difference``, this
        model's percentage minus the published one.
    """
    path = Path(__file__).with_name("published_insect.yaml")
    published: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    ours = pd.Series({split: 100 * getattr(found, split) for split in _SPLITS})
    sources = {"this model": ours} | {
        name: pd.Series(percent) for name, percent in published["percent"].items()
    }
    rows: list[list[str]] = []
    for name, percent in sources.items():
        first = "" if rows else "INSECT"
        figures = [f"{percent[split]:.1f}" for split in _SPLITS]
        if rows:
            figures = [
                # Adding zero makes a rounded -0.0 a 0.0.
                f"{figure} ({round(ours[split] - percent[split], 1) + 0.0:+.1f})"
                for figure, split in zip(figures, _SPLITS, strict=True)
            ]
        rows.append([first, name, *figures])
    cells = pd.DataFrame(rows, columns=["data", "accuracy, %", *_SPLITS])
    parts = {
        name: pd.DataFrame({"percent": percent, "difference": ours - percent})
        for name, percent in sources.items()
    }
    tidy = pd.concat(parts, names=["source", "split"]).reset_index()
    tidy.loc[tidy["source"] == "this model", "difference"] = float("nan")
    chosen = found.chosen
    sizes = " and ".join(f"{count:,} {split}" for split, count in tested.items())
    lines = [
        "In brackets: this model's figure minus the published one, in percentage points.",
        "Accuracy: mean over classes of each one's share of right photos; harmonic: the harmonic "
        "mean of unseen and seen classes.",
        f"this model: {about}; {sizes} photos.",
        f"Tuned on validation classes: K {chosen.neighbours}, k0 {chosen.k0:g}, k1 {chosen.k1:g}, "
        f"m {chosen.m} x {found.dimension}, s {chosen.s:g}.",
        f"Others: {published['title']}, {published['url']}; ResNet-101 features of photos, and of "
        "barcodes those of a CNN trained on them.",
    ]
    if tested != published["tested"]:
        theirs = " and ".join(f"{count:,} {split}" for split, count in published["tested"].items())
        lines.insert(0, f"Other data: published figures are of {theirs} photos, not {sizes}.")
    return TextTable("Zero-shot accuracy in percent", cells, lines, tidy)
