import h5py
import pytest
import torch

from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.scoring.specimens import Specimens
from projects.bioscan_clip.tasks.collection import EmbeddingCollection, by_role, described
from tests import distributed

CPU = torch.device("cpu")
ORDER = [(1, 4), (0, 2), (0, 0), (1, 3), (0, 1)]
"""(dataset, example) in the order in which a shuffling sampler might give them."""


def collect(ids: list[tuple[int, int]], batch_size: int = 2) -> EmbeddingCollection:
    """Collect specimens whose embeddings and labels can be told from their ids."""
    collection = EmbeddingCollection()
    for start in range(0, len(ids), batch_size):
        datasets, examples = torch.tensor(ids[start : start + batch_size]).T
        marks = 100 * datasets + examples
        batch = {
            "dataset_index": datasets,
            "example_index": examples,
            "labels": marks[:, None].repeat(1, 4),
        }
        collection.add(batch, {"dna_embedding": marks[:, None].half()})
    return collection


def check(by_dataset) -> None:
    assert sorted(by_dataset) == [0, 1]
    for dataset, marks in {0: [0, 1, 2], 1: [103, 104]}.items():
        embeddings, rows = by_dataset[dataset]
        assert embeddings.dna.squeeze(1).tolist() == marks
        assert embeddings.dna.dtype == torch.float32
        assert embeddings.labels[:, 0].tolist() == marks
        assert embeddings.rgb is None
        assert rows.tolist() == [mark % 100 for mark in marks]


def test_specimens_come_in_the_order_of_their_dataset():
    check(collect(ORDER).by_dataset(CPU))


def test_repeated_specimens_count_once():
    check(collect([*ORDER, (0, 2), (1, 4)]).by_dataset(CPU))


def test_nothing_collected():
    assert EmbeddingCollection().by_dataset(CPU) == {}


def in_process(rank, processes):
    """Each process has every third specimen; a sampler repeated the first one to fill up."""
    share = [*ORDER, ORDER[0]][rank::processes]
    by_dataset = collect(share, batch_size=1 + rank).by_dataset(CPU)
    check(by_dataset)
    return len(share)


def test_every_process_gets_all_specimens_once():
    assert distributed.run(in_process, 3, 3) == [2, 2, 2]
    assert distributed.run(in_process, 2, 2) == [3, 3]
    assert distributed.run(in_process, 4, 4) == [2, 2, 1, 1]


ROLES = {
    "keys": ("all_keys",),
    "seen": ("test_seen", "val_seen"),
    "unseen": ("test_unseen", "val_unseen"),
    "novel": ("other_heldout",),
}


class Split:
    def __init__(self, split: str, path: str = "file.hdf5") -> None:
        self.split, self.path = split, path


def test_roles_of_splits():
    """A second split of a role is for tuning, and a split that is there twice counts once."""
    names = ("val_seen", "test_seen", "test_seen", "val_unseen", "train_seen", "other_heldout")
    assert by_role(dict(enumerate(map(Split, names))), ROLES) == {
        "seen": [1],
        "tuning_seen": [0],
        "unseen": [3],
        "novel": [5],
    }
    two_files = {0: Split("all_keys", "one.hdf5"), 1: Split("all_keys", "two.hdf5")}
    assert by_role(two_files, ROLES) == {"keys": [0, 1]}


ROWS = torch.tensor([5, 0, 17])


@pytest.fixture(scope="module")
def dataset(sample_file):
    return BIOSCANInsectDataset(sample_file, "all_keys", for_training=False)


@pytest.fixture(scope="module")
def specimens(dataset):
    labels = dataset.read_batch(ROWS.tolist(), seed=(0,))["labels"]
    return described(Specimens(labels), dataset, ROWS, named=True)


def test_ids_names_and_photos_are_those_of_the_file(specimens, sample_file):
    with h5py.File(sample_file) as file:
        group = file["all_keys"]
        for place, row in enumerate(ROWS.tolist()):
            for name in ("sampleid", "processid", "image_file", "order", "family", "genus"):
                assert specimens.table[name][place] == group[name][row].decode()
            photo = group["image"][row][: group["image_mask"][row]].tobytes()
            assert specimens.read_photo(place) == photo
    assert specimens.splits == ("all_keys",)


def test_names_have_the_codes_of_the_labels(specimens):
    names = specimens.table["species"].fillna("not_classified").map(str.encode).to_numpy(dtype="S")
    assert torch.from_numpy(encode_taxa(names)).equal(specimens.labels[:, 3])


def test_seen_species_are_those_of_the_seen_keys(specimens, sample_file):
    with h5py.File(sample_file) as file:
        seen = set(file["seen_keys/species"][:]) - {b"not_classified"}
        species = file["all_keys/species"][:][ROWS.numpy()]
    assert specimens.is_seen.tolist() == [name in seen for name in species]


def test_unknown_names_are_missing(tmp_path, sample_file):
    path = tmp_path / "file.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "a") as file:
        file["all_keys/species"][0] = b"not_classified"
        file["all_keys/genus"][0] = b""
        del file["all_keys/processid"]
        del file["seen_keys"]
    labels = Specimens(torch.zeros(2, 4, dtype=torch.int64))
    found = described(labels, BIOSCANInsectDataset(path, "all_keys"), torch.arange(2), named=True)
    assert found.table.loc[0, ["genus", "species", "processid"]].isna().all()
    assert found.table.loc[1, ["genus", "species"]].notna().all()
    assert found.is_seen is None


def test_other_datasets_have_no_names():
    labels = Specimens(torch.zeros(3, 4, dtype=torch.int64))
    found = described(labels, Split("all_keys"), torch.arange(3), named=True)
    assert len(found.table) == 3
    assert found.table.isna().all(axis=None)
    assert found.read_photo is None
