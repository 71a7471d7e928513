"""A service under load: answers, latencies, memory, and throughput beside one call per photo.

    python benchmarks/serve.py [--quick] [--clients 50] [--seconds 60]

Each client sends one photo (341 x 256 pixels, 18 kB) after the other to a service in a process of
its own, with a ViT-Ti/16 of random weights, a 15th of the published recipe's, and 1,000 known
specimens.
"""

import argparse
import multiprocessing
import re
import socket
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import torch
import uvicorn
from inference import VIT
from published_style import draw_photo
from timing import QUICK, shortest

from projects.bioscan_clip.encoders.network import Network
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.model import Model
from projects.bioscan_clip.inference.service.app import create_app
from projects.bioscan_clip.inference.service.guard import Limits
from projects.bioscan_clip.inference.service.namer import Namer
from projects.bioscan_clip.scoring.specimens import Specimens

SPECIMENS = 1000


def random_model() -> Model:
    encoder = VIT["encoder"] | {"model_name": "vit_tiny_patch16_224"}
    parts = {"rgb": VIT | {"encoder": encoder}}
    torch.manual_seed(0)
    return Model({"modalities": parts}, Network(parts).state_dict())


def build_library(folder: Path, model: Model) -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(SPECIMENS, model.dimension)))
    labels = torch.arange(SPECIMENS)[:, None] // torch.tensor([100, 20, 5, 1])
    table = pd.DataFrame({"sampleid": [f"known {row}" for row in range(SPECIMENS)]})
    for rank, codes in zip(("order", "family", "genus", "species"), labels.T, strict=True):
        table[rank] = [f"{rank} {code}" for code in codes]
    specimens = Specimens(labels, rgb=vectors.float(), table=table)
    ReferenceLibrary.build(folder, specimens, model.hash)


def serve(folder: Path, port: int) -> None:
    namer = Namer(random_model(), ReferenceLibrary.open(folder))
    uvicorn.run(create_app(namer, Limits()), port=port, log_level="error")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def memory(process: int) -> float:
    """Return the memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def load(
    address: str, photos: list[bytes], clients: int, seconds: float
) -> list[tuple[int, float]]:
    """Return status and seconds of every request."""
    end = time.perf_counter() + seconds

    def ask(number: int) -> list[tuple[int, float]]:
        answers = []
        with httpx.Client(timeout=120) as client:
            while (start := time.perf_counter()) < end:
                files = {"photos": ("photo.jpg", photos[number % len(photos)])}
                answer = client.post(f"{address}/api/identify", files=files)
                answers.append((answer.status_code, time.perf_counter() - start))
                if answer.status_code == 503:
                    time.sleep(float(answer.headers["retry-after"]))
        return answers

    with ThreadPoolExecutor(clients) as threads:
        return [one for part in threads.map(ask, range(clients)) for one in part]


def measure(
    folder: Path, photos: list[bytes], clients: int, seconds: float
) -> tuple[list[tuple[int, float]], list[float]]:
    """Return status and seconds of every request, and the service's memory meanwhile in MB."""
    port = free_port()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, port))
    service.start()
    address = f"http://127.0.0.1:{port}"
    wait_for(address)
    load(address, photos, clients, seconds / 10)
    resident = [memory(service.pid)]
    halfway = threading.Timer(seconds / 2, lambda: resident.append(memory(service.pid)))
    halfway.start()
    answers = load(address, photos, clients, seconds)
    resident.append(memory(service.pid))
    service.terminate()
    service.join()
    return answers, resident


def wait_for(address: str) -> None:
    while True:
        try:
            httpx.get(f"{address}/healthz")
        except httpx.ConnectError:
            time.sleep(0.1)
        else:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few clients and seconds")
    parser.add_argument("--clients", type=int, default=5 if QUICK else 50)
    parser.add_argument("--seconds", type=float, default=1 if QUICK else 60)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    photos = [draw_photo(rng) for _ in range(16)]
    model = random_model()
    alone = 1 / shortest(partial(model.encode_image, photos[:1]), 1 if QUICK else 5)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        build_library(library, model)
        del model
        answers, resident = measure(library, photos, arguments.clients, arguments.seconds)
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 503}, statuses
    latencies = [latency for status, latency in answers if status == 200]
    served = len(latencies) * arguments.clients / sum(latency for _, latency in answers)
    median, slow = np.quantile(latencies, (0.5, 0.95))
    print(f"one photo per call of the model {alone:8.1f} photos/s")
    print(f"service, {arguments.clients:2} clients at once    {served:8.1f} photos/s", end="")
    print(f" {served / alone:5.1f} x")
    print(f"latency                         {median:8.2f} s in the middle, {slow:.2f} s at 95%")
    print(f"answers                         {dict(statuses)}")
    print(
        "memory of the service           " + ", ".join(f"{part:,.0f}" for part in resident) + " MB"
    )


if __name__ == "__main__":
    main()
