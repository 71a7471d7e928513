"""Barcodes per second: this project's tokenizer against one call of `tokenizers` per barcode."""

import numpy as np
import torch
from published_style import BARCODE_LENGTH, UsualTokenizer
from rich.console import Console
from timing import QUICK, shortest

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

BARCODES = 200 if QUICK else 10_000


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)
    lengths = rng.integers(600, 700, BARCODES)
    barcodes = [bases[rng.integers(4, size=length)].tobytes() for length in lengths]
    texts = [barcode.decode() for barcode in barcodes]
    column = np.array(barcodes)

    usual, ours = UsualTokenizer(), KmerTokenizer(max_length=BARCODE_LENGTH)
    assert ours(column).equal(torch.stack([usual(text) for text in texts]))
    usual_rate = BARCODES / shortest(lambda: torch.stack([usual(text) for text in texts]), 2)
    console = Console()
    console.print(f"{'one tokenizers call a barcode':32}{usual_rate:12,.0f} barcodes/s")
    for name, given in (("list of str", texts), ("column of a file", column)):
        rate = BARCODES / shortest(lambda given=given: ours(given), 10)
        console.print(
            f"{'this project, ' + name:32}{rate:12,.0f} barcodes/s {rate / usual_rate:8.0f} x"
        )


if __name__ == "__main__":
    main()
