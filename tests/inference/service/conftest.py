"""A library of the sample file by a model that needs no training, and services of it."""

import contextlib
import shutil
import threading
import time

import h5py
import pytest
import uvicorn

from projects.bioscan_clip.inference import building, embedding
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.service.app import create_app
from projects.bioscan_clip.inference.service.guard import Limits
from projects.bioscan_clip.inference.service.namer import Namer
from tests.inference.service.plain import plain_model

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def service_file(sample_file, tmp_path_factory):
    """The sample file with a family of an evil name."""
    path = tmp_path_factory.mktemp("service") / "sample.hdf5"
    shutil.copy(sample_file, path)
    with h5py.File(path, "r+") as file:
        family = file["all_keys"]["family"][0]
        for split in file.values():
            names = split["family"][:].astype("S64")
            names[names == family] = EVIL.encode()
            del split["family"]
            split["family"] = names
    return path


@pytest.fixture(scope="session")
def model(service_file):
    return plain_model(service_file)


@pytest.fixture(scope="session")
def library(service_file, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "best.ckpt").touch()
    with pytest.MonkeyPatch.context() as patch:
        for module in (embedding, building):
            patch.setattr(module, "loaded_model", lambda _: model)
        source = str(folder / "best.ckpt")
        building.build_library(folder / "lib", [f"{service_file}::all_keys"], source)
        labelled = [
            f"{service_file}::{split}"
            for split in ("val_seen", "val_unseen", "test_seen", "test_unseen")
        ]
        building.calibrate_library(folder / "lib", labelled, source)
    return ReferenceLibrary.open(folder / "lib")


@pytest.fixture(scope="session")
def namer(model, library):
    return Namer(model, library)


@contextlib.contextmanager
def served(namer, **limits):
    """Yield the address of a service on a thread."""
    config = uvicorn.Config(create_app(namer, Limits(**limits)), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def address(namer):
    with served(namer) as address:
        yield address
