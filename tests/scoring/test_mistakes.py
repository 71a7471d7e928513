import torch

from projects.bioscan_clip.scoring.mistakes import distances, mistake_table
from projects.bioscan_clip.scoring.neighbours import Match
from projects.bioscan_clip.scoring.search import Neighbours
from projects.bioscan_clip.tasks import Embeddings

TRUTH = torch.tensor([[1, 2, 3, 4]] * 6 + [[1, 2, 3, -1]])
NEAREST = torch.tensor(
    [[1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 9, 9], [1, 9, 9, 9], [9] * 4, [1, 2, -1, -1], [1, 2, 3, -1]]
)


def test_lowest_shared_rank():
    assert distances(NEAREST, TRUTH).tolist() == [0, 1, 2, 3, 4, 2, 1]


def test_shares_and_mean_over_queries_of_known_species():
    match = Match("rgb", "dna", "seen")
    near = Neighbours(torch.ones(7, 1), torch.arange(7)[:, None])
    table = mistake_table(Embeddings(NEAREST), {"seen": Embeddings(TRUTH)}, {match: near})
    found = dict(zip(table["level"], table["value"], strict=True))
    expected = {"species": 1 / 6, "genus": 1 / 6, "family": 2 / 6, "order": 1 / 6, "none": 1 / 6}
    assert {level: round(found[level], 6) for level in expected} == {
        level: round(share, 6) for level, share in expected.items()
    }
    assert found["mean"] == (0 + 1 + 2 + 3 + 4 + 2) / 6
    assert set(table["n"]) == {6}


def test_no_query_of_known_species():
    queries = {"seen": Embeddings(TRUTH[-1:])}
    near = Neighbours(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert mistake_table(Embeddings(NEAREST), queries, {Match("rgb", "dna", "seen"): near}).empty
