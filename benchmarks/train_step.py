"""Training steps, without loading: mmlearn's, this project's, and its options alone and together.

On a GPU with the encoders of BIOSCAN-1M in bf16, at the published batch of 400 and at the largest
doubling of it that fits; else with the sample's small encoders on one thread of the CPU, in seconds
of its time, where ``--compile`` adds compilation, which takes minutes.
"""

import gc
import inspect
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hydra_zen import store
from lightning import pytorch as L
from mmlearn.cli import run  # noqa: F401  fills the store
from mmlearn.datasets.core import Modalities
from mmlearn.tasks import ContrastivePretraining
from omegaconf import open_dict
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from projects.bioscan_clip.datasets.transforms import POSE, finish_batch
from projects.bioscan_clip.encoders import BERT_SAMPLE

ON_GPU = torch.cuda.is_available()
ROUNDS = 1 if QUICK or ON_GPU else 2
STEPS, WARM_UP = (1, 1) if QUICK else (40, 10) if ON_GPU else (12, 4)
EXPERIMENT, BATCH, PHOTO_SIZE = ("bioscan_1m", 400, 224) if ON_GPU else ("bioscan_sample", 100, 80)
BATCH = 8 if QUICK else BATCH
COMPILED = ON_GPU or "--compile" in sys.argv
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "A40": 150, "L40S": 362}  # dense bf16, TFLOP/s
OPTIONS = {
    "loss that waits for nothing": ["modules/losses@task.loss=chunked-contrastive"],
    "compiled": ["task.compile_encoders=true"],
    "frozen weights in half precision": ["task.frozen_in_half=true"],
    "half of the patches": ["+task.encoders.rgb.model_kwargs.patch_drop_rate=0.5"],
    "checkpointed layers": ["task.checkpoint_layers=true"],
}
USUAL, ADAPTED, ADAPTERS = "mmlearn's task", ", adapters", ["lora=qv"]
TOGETHER = "all that are the same training"
CLOCK = time.perf_counter if ON_GPU else time.process_time  # of which others take none
PRECISION = "bf16-mixed" if ON_GPU else "32-true"
OTHER_COSTS = ("half of the patches", "checkpointed layers")  # more or less work, not quicker work
BERT_SMALL = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 30522,
}
OURS, MMLEARNS = (
    "projects.bioscan_clip.tasks.BioscanPretraining",
    "mmlearn.tasks.ContrastivePretraining",
)
RANDOM_WEIGHTS = [  # as large as the pretrained ones
    "task.encoders.rgb.pretrained=false",
    "task.encoders.dna.pretrained_checkpoint_path=null",
    "task.encoders.text.pretrained=false",
]


def build(
    target: str, experiment: str = EXPERIMENT, options: Sequence[str] = ()
) -> L.LightningModule:
    """Build an experiment's task, without evaluation and schedule, as class `target`."""
    store.add_to_hydra_store(overwrite_ok=True)
    overrides = [
        f"+experiment={experiment}",
        *RANDOM_WEIGHTS,
        *options,
    ]
    with initialize_config_module("mmlearn.conf", version_base=None):
        config = compose("base_config", overrides=overrides).task
    if experiment != "bioscan_sample":
        config.encoders.text.model_name_or_path = BERT_SAMPLE
        config.encoders.text.model_config_kwargs = BERT_SMALL
    config.evaluation_tasks = config.lr_scheduler = None
    config._target_ = target
    if target == MMLEARNS:
        known = inspect.signature(ContrastivePretraining).parameters
        with open_dict(config):
            for name in set(config) - set(known) - {"_target_"}:
                del config[name]
            config.optimizer.fused = None
    return instantiate(config, _convert_="partial")


def delivered_batch(specimens: int, photo_size: int = PHOTO_SIZE) -> dict[str, Any]:
    """Return what a worker delivers."""
    ids = torch.stack([torch.zeros(specimens).long(), torch.arange(specimens)], dim=1)
    photos = torch.randint(0, 256, (specimens, 3, photo_size, photo_size), dtype=torch.uint8)
    return {
        "rgb": photos,
        POSE: torch.eye(2).repeat(specimens, 1, 1),
        "dna": torch.randint(0, 1027, (specimens, 133)),
        "text": torch.randint(0, 1000, (specimens, 20)),
        "text_attention_mask": torch.ones(specimens, 20).long(),
        "example_ids": dict.fromkeys(("rgb", "dna", "text"), ids),
    }


class Stopwatch(L.Callback):
    """Note how long each step takes, on the device."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self._synchronise()
        self._start = CLOCK()

    def on_train_batch_end(self, *_: Any) -> None:
        self._synchronise()
        self.seconds.append(CLOCK() - self._start)

    def _synchronise(self) -> None:
        if ON_GPU:
            torch.cuda.synchronize()


@dataclass
class Measured:
    """What steps of one kind cost; seconds of each, and the peak of GPU memory in GB."""

    specimens: int
    seconds: list[float]
    memory: float

    @property
    def rate(self) -> float:
        """Specimens per second; on a CPU of the quickest step, which others disturb least."""
        later = self.seconds[WARM_UP:]
        return self.specimens / (statistics.median(later) if ON_GPU else min(later))


def measure(task: L.LightningModule, batch: dict[str, Any]) -> Measured:
    """Train for a few steps."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stopwatch = Stopwatch()
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        precision=PRECISION,
        max_steps=WARM_UP + STEPS,
        callbacks=[stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([batch] * (WARM_UP + STEPS), batch_size=None, pin_memory=ON_GPU))
    memory = torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else 0.0
    return Measured(len(batch["rgb"]), stopwatch.seconds, memory)


def operations(task: L.LightningModule, name: str, specimens: int, photo_size: int) -> float:
    """Return the operations of a forward and backward pass, per specimen.

    A multiplication and an addition count as two. Attention is computed step by step here, as the
    counter knows no fused one of the CPU.
    """
    batch = finish_batch(delivered_batch(specimens, photo_size))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.encode(batch, Modalities.get_modality(name)).sum().backward()
    return counter.get_total_flops() / specimens


def peak() -> float:
    """Return operations per second: a GPU's by its maker, a CPU's in a product of matrices."""
    if ON_GPU:
        name = torch.cuda.get_device_name()
        return next((1e12 * rate for key, rate in PEAKS.items() if key in name), math.nan)
    square, seconds = torch.randn(1024, 1024), []
    for _ in range(5):
        start = CLOCK()
        square @ square
        seconds.append(CLOCK() - start)
    return 2 * 1024**3 / min(seconds)


def measure_usual(options: Sequence[str] = ()) -> Measured:
    """Train mmlearn's own task, with photos as they usually come."""
    task = build(MMLEARNS, options=options)
    # As the usual wrappers do, the encoders return every layer's output.
    task.encoders["dna"].model.config.output_hidden_states = True
    task.encoders["text"].model.config.output_hidden_states = True
    batch = finish_batch(delivered_batch(BATCH))
    batch["rgb"] = batch["rgb"].contiguous()  # one colour after the other
    return measure(task, batch)


def largest_batch(task: L.LightningModule) -> int:
    """Return the largest batch that fits, doubling from the published one."""
    specimens = BATCH
    while True:
        try:
            measure(task, delivered_batch(2 * specimens))
        except torch.cuda.OutOfMemoryError:
            return specimens
        specimens *= 2


def measure_ours(options: Sequence[str], is_largest: bool = False) -> Measured:
    """Train this project's task with options, at the published batch or at the largest."""
    task = build(OURS, options=options)
    return measure(task, delivered_batch(largest_batch(task) if is_largest else BATCH))


def kinds() -> dict[str, Callable[[], Measured]]:
    """Return what measures each kind of step, by name."""
    usable = {
        name: options
        for name, options in OPTIONS.items()
        if (COMPILED or name != "compiled") and (ON_GPU or "half precision" not in name)
    }
    same = {name: options for name, options in usable.items() if name not in OTHER_COSTS}
    together = [option for options in same.values() for option in options]
    ours = {"this project": []} | ({} if QUICK else usable) | {TOGETHER: together}
    found = {USUAL: measure_usual} | {
        name: partial(measure_ours, each) for name, each in ours.items()
    }
    if ON_GPU:
        return found | {f"{TOGETHER}, largest batch": partial(measure_ours, together, True)}
    return found | {  # which the sample's encoders have none of
        USUAL + ADAPTED: partial(measure_usual, ADAPTERS),
        f"this project{ADAPTED}": partial(measure_ours, ADAPTERS),
    }


def main() -> None:
    torch.manual_seed(0)
    if not ON_GPU:
        torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    names = ("rgb", "dna", "text")
    needed = sum(operations(build(OURS), name, min(BATCH, 4), PHOTO_SIZE) for name in names)
    # In turn, since a machine that others use is quicker at one time than at another.
    rounds = [{name: work() for name, work in kinds().items()} for _ in range(ROUNDS)]
    found = {
        name: max((each[name] for each in rounds), key=attrgetter("rate")) for name in rounds[0]
    }

    device = torch.cuda.get_device_name() if ON_GPU else "CPU, 1 thread"
    table = Table(title=f"Training step of {EXPERIMENT}, {device}, {PRECISION}")
    headings = ("batch", "specimens/s", "", "of the peak", "GPU memory, GB", "first step, s")
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left")
    fastest = peak()
    for name, each in found.items():
        usual = found[USUAL + ADAPTED if name.endswith(ADAPTED) else USUAL]
        is_counted = name not in OTHER_COSTS and usual is found[USUAL]
        share = f"{each.rate * needed / fastest:.0%}" if is_counted else ""
        cells = (f"{each.rate:,.0f}", f"{each.rate / usual.rate:.2f} x", share)
        first = f"{rounds[0][name].seconds[0]:.1f}"
        table.add_row(name, str(each.specimens), *cells, f"{each.memory:.1f}", first)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
