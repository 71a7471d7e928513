"""`mmlearn_run job_type=eval` in one, two and three processes."""

import json
import multiprocessing
import os
import shutil
import socket
import sys
from pathlib import Path

import h5py
import pytest

SPLITS = ("all_keys", "test_seen", "test_unseen", "val_seen", "val_unseen")
BATCH_SIZES = {1: 16, 2: 34, 3: 15}
"""By number of processes; in the last two cases, one process has a batch less than another."""

COMMAND = [
    "mmlearn_run",
    "hydra.searchpath=[pkg://projects.bioscan_clip.configs]",
    "+experiment=bioscan_sample",
    "job_type=eval",
    "task.evaluate_untrained=true",
    "task.evaluation_tasks.tax_cls.task.report=off",
    "dataloader.test.num_workers=0",
    "trainer.accelerator=cpu",
    "task.evaluation_tasks.tax_cls.task.top_k=[1,5]",
]
PADDED: tuple[str, ...] = ()  # mmlearn's sampler repeats specimens until all have equally many
UNPADDED = (
    "+dataloader.test.sampler._target_="
    "lightning.pytorch.overrides.distributed.UnrepeatedDistributedSampler",
    "+dataloader.test.sampler.num_replicas=1",
    "+dataloader.test.sampler.rank=0",
    "+dataloader.test.sampler.shuffle=false",
    "task.compute_test_loss=false",  # which processes compute together, batch by batch
)


def one_process(rank, processes, port, data, folder, arguments):
    """Run the command as torchrun would start it."""
    os.chdir(folder)
    os.environ |= {
        "BIOSCAN_SAMPLE_HDF5": str(data),
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "CUDA_VISIBLE_DEVICES": "",
    }
    import torch
    from mmlearn.cli.run import main

    torch.set_num_threads(1 if processes > 1 else 2)  # as torchrun does
    sys.argv = arguments
    with Path(f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        main()


@pytest.fixture(scope="module")
def uneven_file(sample_file, tmp_path_factory) -> Path:
    """The sample without one specimen, so that no number of processes divides the rest."""
    path = shutil.copy(sample_file, tmp_path_factory.mktemp("data") / "uneven.hdf5")
    with h5py.File(path, "r+") as file:
        shorter = {name: values[:-1] for name, values in file["test_seen"].items()}
        for name, values in shorter.items():
            del file["test_seen"][name]
            file["test_seen"][name] = values
    return path


@pytest.fixture(scope="module")
def evaluate(uneven_file, tmp_path_factory):
    """Return a function that evaluates in some processes, and returns what was saved."""
    context = multiprocessing.get_context("forkserver")  # imports once, in a fresh process
    context.set_forkserver_preload(["mmlearn.cli.run", "projects.bioscan_clip.configs"])

    def run(processes: int, *overrides: str) -> bytes:
        folder = tmp_path_factory.mktemp("run")
        command = [*COMMAND, *overrides, f"trainer.devices={processes}", f"hydra.run.dir={folder}"]
        if processes > 1:
            command.append("trainer.strategy=ddp")
        command.append(f"dataloader.test.batch_size={BATCH_SIZES[processes]}")
        port = free_port()
        children = [
            context.Process(
                target=one_process, args=(rank, processes, port, uneven_file, folder, command)
            )
            for rank in range(processes)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(timeout=300)
            if child.exitcode != 0:
                for other in children:
                    other.kill()
                logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
                pytest.fail(f"A process ended with {child.exitcode}:\n{logs}")
        return (folder / "metrics.json").read_bytes()

    return run


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def alone(evaluate) -> bytes:
    return evaluate(1)


def test_sizes_are_uneven(uneven_file, alone):
    """Otherwise the tests below would not show what they should."""
    with h5py.File(uneven_file) as file:
        specimens = sum(len(file[split]["species"]) for split in SPLITS)
    for processes in (2, 3):
        most, least = -(-specimens // processes), specimens // processes
        batch_size = BATCH_SIZES[processes]
        assert -(-most // batch_size) > -(-least // batch_size)
    assert len(set(json.loads(alone).values())) > 10


@pytest.mark.parametrize(("processes", "sampler"), [(2, PADDED), (3, PADDED), (3, UNPADDED)])
def test_processes_save_what_one_does(evaluate, alone, processes, sampler):
    assert evaluate(processes, *sampler) == alone
