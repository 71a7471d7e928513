"""Photos per second of a trained model: reading and preparing, and what is added to the encoder.

    python benchmarks/inference.py [--quick] [--device cuda]

Photos of 341 x 256 pixels and 18 kB. Reading and preparing is compared with PIL and torchvision's
transforms, one photo after the other; `encode_image` with the ViT-B/16 of the published recipe, of
random weights, on photos that are ready.
"""

import argparse
import io
import os

import numpy as np
import torch
from PIL import Image
from published_style import draw_photo
from rich.console import Console
from timing import QUICK, shortest
from torchvision.transforms import v2

from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD, finish
from projects.bioscan_clip.encoders.network import Network
from projects.bioscan_clip.inference.model import Model
from projects.bioscan_clip.inference.photos import read_ahead

SIZE, BATCH = 224, 64
VIT = {
    "encoder": {
        "_target_": "TimmViT",
        "model_name": "vit_tiny_patch16_224" if QUICK else "vit_base_patch16_224",
        "projection_dim": 768,
    },
    "lora": None,
    "head": None,
    "preprocessing": {"image_size": SIZE, "mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
}


def prepare(photos: list[bytes]) -> None:
    for batch in read_ahead(photos, SIZE, BATCH):
        finish(batch.photos)


def prepare_as_usual(photos: list[bytes]) -> None:
    steps = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Resize(256, antialias=True),
        v2.CenterCrop(SIZE),
        v2.Normalize(CLIP_MEAN, CLIP_STD),
    ]
    transform = v2.Compose(steps)
    for start in range(0, len(photos), BATCH):
        images = [Image.open(io.BytesIO(photo)) for photo in photos[start : start + BATCH]]
        torch.stack([transform(image.convert("RGB")) for image in images])


def compare_preparing(photos: list[bytes], repeats: int, console: Console) -> None:
    torch.set_num_threads(1)
    usual = len(photos) / shortest(lambda: prepare_as_usual(photos), repeats)
    ours = len(photos) / shortest(lambda: prepare(photos), repeats)
    cores = len(os.sched_getaffinity(0))
    console.print(f"PIL and torchvision, one by one {usual:8,.0f} photos/s")
    console.print(
        f"read and prepared, {cores:3} threads  {ours:8,.0f} photos/s {ours / usual:5.1f} x"
    )


def compare_encoding(photos: list[bytes], device: str, repeats: int, console: Console) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = Model({"modalities": {"rgb": VIT}}, Network({"rgb": VIT}).state_dict(), device)
    read = read_ahead(photos, SIZE, BATCH)
    batches = [{"rgb": finish(batch.photos.to(device))} for batch in read]

    def forward() -> None:
        for batch in batches:
            model._embed("rgb", batch)

    forward()
    alone = len(photos) / shortest(forward, repeats)
    whole = len(photos) / shortest(lambda: model.encode_image(photos, BATCH), repeats)
    console.print(f"ViT-B/16 alone, {device:16} {alone:8,.1f} photos/s")
    console.print(f"encode_image                    {whole:8,.1f} photos/s {whole / alone:5.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer photos")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    drawn = [draw_photo(rng) for _ in range(8 if QUICK else 64)]
    console = Console()
    compare_preparing(drawn * (1 if QUICK else 20), 3, console)
    on_gpu = arguments.device != "cpu"
    encoded = drawn * 50 if on_gpu else drawn
    compare_encoding(encoded, arguments.device, 1 if QUICK else 3, console)


if __name__ == "__main__":
    main()
