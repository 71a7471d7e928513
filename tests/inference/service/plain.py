"""A model that needs no training, and a service of it: `python plain.py LIBRARY`."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import torch
from PIL import Image

from projects.bioscan_clip.datasets.transforms import evaluation_view
from projects.bioscan_clip.inference import building, embedding
from projects.bioscan_clip.inference.barcodes import BarcodePlacer, clean_barcode
from projects.bioscan_clip.inference.model import Encoded
from projects.bioscan_clip.inference.photos import read_photo

SIZE = 64


class PlainModel:
    """Colours of photos and 3-mers of barcodes, which it places as trained models do."""

    dimension = 64
    modalities = ("rgb", "dna")
    hash = "plain" * 8

    def __init__(self, barcodes):
        photos = {"preprocessing": {"image_size": SIZE}}
        self.configuration = {"modalities": {"rgb": photos, "dna": {}}}
        self.placer = BarcodePlacer(barcodes)
        self.batches = []

    def encode_views(self, views):
        self.batches.append(len(views))
        colours = (views.long().permute(0, 2, 3, 1).flatten(1, 2) // 64) @ torch.tensor([16, 4, 1])
        return np.stack(
            [np.sqrt(np.bincount(one, minlength=64)) for one in colours.numpy()]
        ).astype(np.float32)

    def encode_image(self, photos, on_error, crop, save_crops):
        views = [evaluation_view(read_photo(photo), SIZE) for photo in photos]
        return Encoded(self.encode_views(torch.stack(views)))

    def encode_dna(self, barcodes, on_error):
        result = Encoded(np.full((len(barcodes), 64), np.nan, dtype=np.float32))
        for row, barcode in enumerate(barcodes):
            try:
                prepared = self.placer.prepare([clean_barcode(barcode)])[0]
            except ValueError as error:
                result.errors[row] = str(error)
                continue
            digits = ["ACGT".find(base) for base in prepared.text if base in "ACGT"]
            kmers = np.convolve(digits, [1, 4, 16], "valid")
            result.embeddings[row] = np.bincount(kmers, minlength=64) - len(kmers) / 64
            if note := "; ".join(filter(None, (prepared.describe(), *prepared.warnings))):
                result.notes[row] = note
        return result


def specimen(file, split, row):
    """Return photo, barcode, family and species of a row of a file."""
    with h5py.File(file) as opened:
        group = opened[split]
        jpeg = group["image"][row, : group["image_mask"][row]].tobytes()
        texts = [group[name][row].decode() for name in ("barcode", "family", "species")]
    return SimpleNamespace(photo=jpeg, barcode=texts[0], family=texts[1], species=texts[2])


def plain_model(file):
    with h5py.File(file) as opened:
        return PlainModel([text.decode() for text in opened["train_seen"]["barcode"][:200]])


def png(width, height, colour=(200, 10, 10)):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    from projects.bioscan_clip.inference.service import server

    model = plain_model(sys.argv[2])
    for module in (embedding, building, server):
        module.loaded_model = lambda _: model
    server.serve(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[3]) if sys.argv[3:] else 0)
