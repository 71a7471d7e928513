"""What barcode augmentation gives: accuracy where barcodes do not begin at the standard first base.

The sample's encoders of barcodes and names are trained on each other, without photos, once with and
once without augmentation. A barcode of the test then takes the species of the nearest key, whose
barcode is whole. `score_run` does the same with the barcode encoder of a whole training.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch import nn
from torch.nn import functional as F

from projects.bioscan_clip.datasets.barcodes import AUGMENTATIONS, augment_barcode
from projects.bioscan_clip.datasets.hdf5 import HDF5Split
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    EVALUATION_SPLITS,
    SEEN_KEYS,
    TEXT_IDS,
    TEXT_MASK,
    TRAINING_SPLIT,
)
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders import BERT_SAMPLE, BarcodeBERT, TextEncoder
from projects.bioscan_clip.sample.file import write_sample

EPOCHS, BATCH, LEARNING_RATE, SCALE = (1 if QUICK else 16), 100, 1.5e-3, 14.0
SIZES = {"n_species": 24, "n_specimens": 400} if QUICK else {}
PRIMER = b"GGTCAACAAATCATAAAGATATTGG"  # LCO1490
CHANGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "whole": lambda barcode, rng: barcode,
    "first base cut off": lambda barcode, rng: barcode[1:],
    "first five cut off": lambda barcode, rng: barcode[5:],
    "1 to 60 cut off": lambda barcode, rng: barcode[rng.integers(1, 61) :],
    "25 bases of primer in front": lambda barcode, rng: PRIMER + barcode,
    "1 to 200 cut off at the end": lambda barcode, rng: barcode[: -rng.integers(1, 201)],
}
TOKENIZER = KmerTokenizer()


def barcode_encoder() -> BarcodeBERT:
    """Return the barcode encoder of the experiment `bioscan_sample`."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    options = sizes | dropout | {"intermediate_size": 128}
    return BarcodeBERT(TOKENIZER.vocab_size, 128, model_config_kwargs=options)


def train(path: Path, augment: bool) -> BarcodeBERT:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    dna, text = barcode_encoder(), TextEncoder(BERT_SAMPLE, pretrained=False)
    split = HDF5Split(path, TRAINING_SPLIT, (BARCODE, TEXT_IDS, TEXT_MASK))
    steps = EPOCHS * (len(split) // BATCH)
    optimizer = torch.optim.AdamW([*dna.parameters(), *text.parameters()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = rng.permutation(len(split))
        for start in range(0, len(split) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            barcodes = split.read(BARCODE, rows).tolist()
            if augment:
                barcodes = [
                    augment_barcode(barcode, rng, AUGMENTATIONS["shifted"]) for barcode in barcodes
                ]
            names = {
                "text": torch.from_numpy(split.read(TEXT_IDS, rows)),
                "text_attention_mask": torch.from_numpy(split.read(TEXT_MASK, rows)),
            }
            from_dna = F.normalize(dna({"dna": TOKENIZER(barcodes)})[0])
            from_text = F.normalize(text(names)[0])
            logits = SCALE * from_dna @ from_text.T
            targets = torch.arange(BATCH)
            loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return dna


@torch.no_grad()
def embed(encoder: nn.Module, barcodes: list[bytes]) -> torch.Tensor:
    encoder.eval()
    parts = [
        encoder({"dna": TOKENIZER(barcodes[start : start + 200])})[0]
        for start in range(0, len(barcodes), 200)
    ]
    return F.normalize(torch.cat(parts))


def accuracies(path: Path, encoder: nn.Module) -> list[float]:
    """Return the share of right species for each change, among queries of seen species."""
    keys = HDF5Split(path, SEEN_KEYS, (BARCODE,))
    queries = HDF5Split(path, EVALUATION_SPLITS["test"]["seen"], (BARCODE,))
    known = embed(encoder, keys.read(BARCODE, np.arange(len(keys))).tolist())
    barcodes = queries.read(BARCODE, np.arange(len(queries))).tolist()
    found = []
    for change in CHANGES.values():
        rng = np.random.default_rng(0)
        changed = embed(encoder, [change(barcode, rng) for barcode in barcodes])
        nearest = (changed @ known.T).argmax(dim=1).numpy()
        found.append(float((keys.labels[nearest, 3] == queries.labels[:, 3]).mean()))
    return found


def score_run(path: Path, run: Path) -> list[float]:
    """Score the barcode encoder of a training's output folder."""
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    encoder = instantiate(config.task.encoders.dna)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "encoders.dna."
    encoder.load_state_dict(
        {name.removeprefix(prefix): w for name, w in saved.items() if name.startswith(prefix)}
    )
    return accuracies(path, encoder)


def main() -> None:
    """``barcode_augmentation.py [FILE RUN ...]``: of trainings, or of two short ones made here."""
    arguments = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    if arguments:
        path, *runs = arguments
        columns = {run.name: score_run(path, run) for run in runs}
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sample.hdf5"
            write_sample(path, **SIZES)
            columns = {
                "as published": accuracies(path, train(path, augment=False)),
                "with augmentation": accuracies(path, train(path, augment=True)),
            }
    table = Table("barcodes of the test, seen species", *columns)
    for position, change in enumerate(CHANGES):
        table.add_row(change, *(f"{100 * found[position]:.1f} %" for found in columns.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
