import torch

from projects.bioscan_clip.tasks.collection import EmbeddingCollection
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
        embeddings = by_dataset[dataset].embeddings
        assert embeddings.dna.squeeze(1).tolist() == marks
        assert embeddings.dna.dtype == torch.float32
        assert embeddings.labels[:, 0].tolist() == marks
        assert embeddings.rgb is None
        assert by_dataset[dataset].rows.tolist() == [mark % 100 for mark in marks]


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
