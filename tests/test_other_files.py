"""Whatever reads HDF5 refuses values in other files, which may be anybody's, and says of damage."""

import json

import h5py
import numpy as np
import pytest

from projects.bioscan_clip.data_tools.repack import repack
from projects.bioscan_clip.data_tools.subset import write_subset
from projects.bioscan_clip.datasets import BIOSCANInsectDataset
from projects.bioscan_clip.encoders.configuration import learn_from_data
from projects.bioscan_clip.inference.inputs import read_inputs
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings


def keep_elsewhere(group: h5py.Group) -> None:
    """Leave in a file the names, and put the values into another one without HDF5."""
    for name, values in {name: column[:] for name, column in group.items()}.items():
        elsewhere = f"{group.file.filename}.{group.name[1:]}.{name}"
        values.tofile(elsewhere)
        del group[name]
        place = [(elsewhere, 0, values.nbytes)]
        group.create_dataset(name, values.shape, values.dtype, external=place)


@pytest.fixture(scope="module")
def outside(sample_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("outside") / "outside.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "r+") as file:
        for split in file.values():
            keep_elsewhere(split)
    return path


def learn(path, modality):
    learn_from_data(
        {"modalities": {modality: {}}}, {"path_to_hdf5_file": path, "split": "val_seen"}
    )


READERS = {
    "training": lambda path: BIOSCANInsectDataset(path, "val_seen"),
    "inference": lambda path: read_inputs([f"{path}::val_seen"]),
    "subset": lambda path: write_subset(path, path.with_name("part.hdf5"), 100),
    "repack": lambda path: repack(path, path.with_name("copy.hdf5")),
    "barcodes to align by": lambda path: learn(path, "dna"),
    "margin of photos": lambda path: learn(path, "rgb"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_data_file_is_read_for_itself_only(outside, read):
    with pytest.raises(ValueError, match="keeps its values in other files"):
        read(outside)
    assert not [*outside.parent.glob("part*"), *outside.parent.glob("copy*")]


@pytest.mark.parametrize("name", ["extracted_feature_from_test_split", "embeddings"])
def test_features_are_read_for_themselves_only(tmp_path, name):
    path = tmp_path / f"{name}.hdf5"
    splits = ("key", "seen") if "extracted" in name else ("all_keys", "seen_test")
    texts = [f"{rank}_list" for rank in ("order", "family", "genus", "species")]
    with h5py.File(path, "w") as file:
        for split in splits:
            file[f"{split}/encoded_dna_feature"] = [[1.0, 0.0]]
            file[split].update({text: np.array([b"Diptera"]) for text in texts})
            keep_elsewhere(file[split])
    label = dict.fromkeys(("order", "family", "genus", "species"), "Diptera")
    (tmp_path / "labels_test.json").write_text(
        json.dumps({f"{split}_gt_dict": [label] for split in splits})
    )
    with pytest.raises(ValueError, match="keeps its values in other files"):
        load_embeddings(path)


@pytest.fixture(scope="module")
def broken(sample_file, tmp_path_factory):
    """A file of which the list of columns of every split is overwritten."""
    path = tmp_path_factory.mktemp("broken") / "broken.hdf5"
    path.write_bytes(sample_file.read_bytes().replace(b"SNOD", b"XXXX"))
    return path


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_damage_to_the_structure_is_said_with_the_name_of_the_file(broken, read):
    with pytest.raises(ValueError, match=r"broken\.hdf5"):
        read(broken)
