"""Specimens per second and memory of a training step, without loading.

On a GPU with the encoders of BIOSCAN-1M in bf16, at the published batch of 400 and at the largest
doubling of it that fits; else with the sample's small encoders on the CPU. ``--compile`` adds the
step under torch.compile, which takes minutes to compile.
"""

import gc
import inspect
import logging
import statistics
import sys
import time
import warnings
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hydra_zen import store
from lightning import pytorch as L
from mmlearn.cli import run  # noqa: F401  fills the store
from mmlearn.tasks import ContrastivePretraining
from omegaconf import open_dict
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.utils.data import DataLoader

from projects.bioscan_clip.datasets.transforms import POSE, finish_batch
from projects.bioscan_clip.encoders import BERT_SAMPLE

ON_GPU = torch.cuda.is_available()
STEPS, WARM_UP = (1, 1) if QUICK else (40, 10) if ON_GPU else (12, 4)
EXPERIMENT, BATCH, PHOTO_SIZE = ("bioscan_1m", 400, 224) if ON_GPU else ("bioscan_sample", 100, 80)
BATCH = 8 if QUICK else BATCH
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


def build(target: str, experiment: str = EXPERIMENT) -> L.LightningModule:
    """Build an experiment's task, without evaluation and schedule, as class `target`."""
    store.add_to_hydra_store(overwrite_ok=True)
    overrides = [
        f"+experiment={experiment}",
        *RANDOM_WEIGHTS,
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
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self._synchronise()
        self.seconds.append(time.perf_counter() - self._start)

    def _synchronise(self) -> None:
        if ON_GPU:
            torch.cuda.synchronize()


def measure(task: L.LightningModule, batch: dict[str, Any]) -> tuple[float, float]:
    """Return specimens per second, and the peak of GPU memory in GB (0 without a GPU)."""
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stopwatch = Stopwatch()
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if ON_GPU else "32-true",
        max_steps=WARM_UP + STEPS,
        callbacks=[stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([batch] * (WARM_UP + STEPS), batch_size=None, pin_memory=ON_GPU))
    memory = torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else 0.0
    return len(batch["rgb"]) / statistics.median(stopwatch.seconds[WARM_UP:]), memory


def keep_hidden_states(task: L.LightningModule) -> None:
    """Let the encoders return every layer's output, as the usual wrappers do."""
    task.encoders["dna"].model.config.output_hidden_states = True
    task.encoders["text"].model.config.output_hidden_states = True


def largest_batch(task: L.LightningModule) -> int:
    """Return the largest batch that fits, doubling from the published one."""
    specimens = BATCH
    while True:
        try:
            measure(task, delivered_batch(2 * specimens))
        except torch.cuda.OutOfMemoryError:
            return specimens
        specimens *= 2


def main() -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"Training step of {EXPERIMENT}, {device}")
    for heading in ("", "batch", "specimens/s", "", "GPU memory, GB"):
        table.add_column(heading, justify="right")

    batch = delivered_batch(BATCH)
    usual = build(MMLEARNS)
    keep_hidden_states(usual)
    usual_rate, memory = measure(usual, finish_batch(batch))
    table.add_row("mmlearn's task", str(BATCH), f"{usual_rate:,.0f}", "", f"{memory:.1f}")
    del usual

    ours = build(OURS)
    batches = {"this project": batch}
    if ON_GPU:
        batches["this project, largest batch"] = delivered_batch(largest_batch(ours))
    for name, given in batches.items():
        rate, memory = measure(ours, given)
        ratio = f"{rate / usual_rate:.2f} x"
        table.add_row(name, str(len(given["rgb"])), f"{rate:,.0f}", ratio, f"{memory:.1f}")

    if "--compile" in sys.argv:
        compiled_rate, memory = measure(torch.compile(ours), batch)
        ratio = f"{compiled_rate / usual_rate:.2f} x"
        table.add_row("compiled", str(BATCH), f"{compiled_rate:,.0f}", ratio, f"{memory:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
