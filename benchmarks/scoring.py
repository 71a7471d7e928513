"""Scoring: all pairs of features at once against one product a pair, and growth with the keys."""

import multiprocessing
import resource
import time
from collections import defaultdict
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import QUICK

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.scoring.evaluation import Evaluation, evaluate
from projects.bioscan_clip.scoring.neighbours import find_neighbours
from projects.bioscan_clip.scoring.specimens import MODALITIES, Specimens

KEYS: Final = 300 if QUICK else 21_118  # of BIOSCAN-1M
QUERIES: Final = 50 if QUICK else 2_000  # of seen, and of unseen species
WIDTH: Final = 768
TOP_K: Final = (1, 3, 5)
GROWTH: Final = (1_000,) if QUICK else (10_000, 100_000, 1_000_000)
GROWTH_QUERIES: Final = 100 if QUICK else 1_000


def main() -> None:
    console = Console()
    keys, queries = (
        specimens(KEYS, 0),
        {"seen": specimens(QUERIES, 1), "unseen": specimens(QUERIES, 2)},
    )
    start = time.perf_counter()
    usual_neighbours, usual_accuracy = usual(keys, queries)
    middle = time.perf_counter()
    ours = evaluate({"keys": keys, **queries}, TOP_K)
    seconds = middle - start, time.perf_counter() - middle
    check(ours, usual_neighbours, usual_accuracy)
    console.print(
        f"{KEYS:,} keys, 2 x {QUERIES:,} queries, {WIDTH} dimensions, all pairs, "
        f"top {TOP_K}, {torch.get_num_threads()} threads"
    )
    console.print(f"a product and a loop for each pair {seconds[0]:8.1f} s")
    console.print(
        f"this project                       {seconds[1]:8.1f} s {seconds[0] / seconds[1]:6.1f} x"
    )

    table = Table(title=f"{GROWTH_QUERIES:,} queries, keys of half precision")
    for heading in ("keys", "s", "GB, keys included"):
        table.add_column(heading, justify="right")
    for count in GROWTH:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            elapsed, gigabytes = pool.apply(grow, (count,))
        table.add_row(f"{count:,}", f"{elapsed:.1f}", f"{gigabytes:.1f}")
    console.print(table)


def specimens(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Specimens:
    """Draw specimens around 2,000 species, so that some neighbours are right."""
    generator = torch.Generator().manual_seed(seed)
    species = torch.randint(2000, (count,), generator=generator)
    labels = torch.stack([species // 500, species // 20, species // 4, species], dim=1)
    centres = torch.randn((2000, WIDTH), generator=torch.Generator().manual_seed(99))
    features = {}
    for name in MODALITIES:
        values = torch.empty((count, WIDTH), dtype=dtype)
        for rows in torch.arange(count).split(10_000):
            noise = torch.randn((len(rows), WIDTH), generator=generator)
            values[rows] = (centres[species[rows]] + 4 * noise).to(dtype)
        features[name] = values
    return Specimens(labels=labels, **features)


def usual(keys, queries):
    """Search and score pair by pair, with labels as dictionaries and a loop over queries."""
    key_labels = as_dictionaries(keys)
    neighbours, accuracy = {}, {}
    key_features = features_of(keys)
    key_features["all"] = np.vstack([key_features[name] for name in MODALITIES])
    for split, specimens_of_split in queries.items():
        truth = as_dictionaries(specimens_of_split)
        for query, query_values in features_of(specimens_of_split).items():
            for key, key_values in key_features.items():
                if query_values.shape[1] != key_values.shape[1]:
                    continue
                near = nearest(query_values, key_values)
                neighbours[query, key, split] = near % len(keys)
                predicted = [[key_labels[row % len(keys)] for row in rows] for rows in near]
                for name, value in score(predicted, truth).items():
                    accuracy[f"{query}_to_{key}/{split}/{name}"] = value
    return neighbours, accuracy


def features_of(embeddings):
    values = {name: rows.numpy() for name, rows in embeddings.modalities.items()}
    both = [values["rgb"], values["dna"]]
    return values | {
        "averaged": np.mean(both, axis=0),
        "concatenated": np.concatenate(both, axis=1),
    }


def as_dictionaries(embeddings):
    return [dict(zip(RANKS, row, strict=True)) for row in embeddings.labels.tolist()]


def nearest(queries, keys):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys)]
    similarities = torch.from_numpy(unit[0]) @ torch.from_numpy(unit[1]).T
    return similarities.topk(max(TOP_K), dim=1).indices.numpy()


def score(predicted, truth):
    scores = {}
    for rank in RANKS:
        for k in TOP_K:
            by_class = defaultdict(list)
            for neighbours, labels in zip(predicted, truth, strict=True):
                hit = labels[rank] in [neighbour[rank] for neighbour in neighbours[:k]]
                by_class[labels[rank]].append(hit)
            hits = [hit for group in by_class.values() for hit in group]
            scores[f"micro/top{k}/{rank}"] = sum(hits) / len(hits)
            shares = [sum(group) / len(group) for group in by_class.values()]
            scores[f"macro/top{k}/{rank}"] = sum(shares) / len(shares)
    return scores


def check(ours: Evaluation, neighbours, accuracy) -> None:
    """Neighbours are the same but where two are equally near to rounding; so are accuracies."""
    numbers = ours.numbers()
    others = ("/harmonic/", "/mistake/")  # ours alone
    assert set(accuracy) == {n for n in numbers if not any(other in n for other in others)}
    assert max(abs(numbers[name] - value) for name, value in accuracy.items()) < 1e-3
    differing = sum(
        (near.keys.numpy() != neighbours[match]).sum() for match, near in ours.neighbours.items()
    )
    total = sum(near.keys.numel() for near in ours.neighbours.values())
    assert differing < 1e-4 * total, f"{differing} of {total} neighbours differ"


def grow(count: int) -> tuple[float, float]:
    keys, queries = specimens(count, 0, torch.float16), {"seen": specimens(GROWTH_QUERIES, 1)}
    start = time.perf_counter()
    find_neighbours(keys, queries, max(TOP_K))
    elapsed = time.perf_counter() - start
    return elapsed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
