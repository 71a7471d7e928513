"""Nearest-neighbour taxonomy on embeddings: the score that BIOSCAN-CLIP is judged by.

A query specimen takes the labels of its nearest key specimens (Gong et al., CLIBD, ICLR 2025).
Everything here is arrays in, numbers out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.tasks.metrics import (
    harmonic_mean,
    known,
    macro_accuracy,
    micro_accuracy,
    topk_correct,
)
from projects.bioscan_clip.tasks.search import nearest_keys

MODALITIES = ("rgb", "dna", "text")


@dataclass
class Embeddings:
    """Embeddings of some specimens, with their labels.

    Attributes
    ----------
    labels : torch.Tensor
        int64, shape ``(N, 4)``, codes of order, family, genus and species, -1 if unknown.
    rgb, dna, text : torch.Tensor, optional
        Floating point, shape ``(N, D)``; not necessarily normalised.
    """

    labels: torch.Tensor
    rgb: torch.Tensor | None = None
    dna: torch.Tensor | None = None
    text: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit."""
        self.labels = torch.as_tensor(self.labels)
        if self.labels.ndim != 2 or self.labels.shape[1] != len(RANKS):
            raise ValueError(
                f"`labels` must have shape (N, {len(RANKS)}), a code each for {', '.join(RANKS)}, "
                f"but has shape {tuple(self.labels.shape)}."
            )
        for modality in MODALITIES:
            values = getattr(self, modality)
            if values is not None:
                setattr(self, modality, self._checked(modality, torch.as_tensor(values)))

    def _checked(self, modality: str, values: torch.Tensor) -> torch.Tensor:
        if values.ndim != 2 or len(values) != len(self.labels):
            raise ValueError(
                f"`{modality}` must have shape (N, D) with N = {len(self.labels)} as `labels` has, "
                f"but has shape {tuple(values.shape)}."
            )
        bad = int((~values.isfinite().all(dim=1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(values)} `{modality}` embeddings hold NaN or infinity: training "
                "has diverged, or the checkpoint or the features are damaged."
            )
        return values

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Put specimens of several sets together; each set must have the same modalities."""
        columns: dict[str, torch.Tensor] = {"labels": torch.cat([part.labels for part in parts])}
        for name in MODALITIES:
            values = [getattr(part, name) for part in parts]
            if values[0] is not None:
                columns[name] = torch.cat(values)
        return cls(**columns)

    def features(self) -> dict[str, torch.Tensor]:
        """Return what a query can be: each modality, and photo and barcode put together.

        Returns
        -------
        dict of str to torch.Tensor
            ``rgb``, ``dna`` and ``text`` as far as they are there, and ``averaged`` (if photo and
            barcode have the same dimension) and ``concatenated``; float32, shape ``(N, ...)``.
        """
        present = {name: getattr(self, name) for name in MODALITIES}
        features = {name: values.float() for name, values in present.items() if values is not None}
        if "rgb" in features and "dna" in features:
            photo, barcode = features["rgb"], features["dna"]
            if photo.shape == barcode.shape:
                features["averaged"] = (photo + barcode) / 2
            features["concatenated"] = torch.cat([photo, barcode], dim=1)
        return features


def evaluate_embeddings(
    keys: Embeddings | Mapping[str, Any],
    queries: Mapping[str, Embeddings | Mapping[str, Any]],
    top_k: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """Score queries against keys, for every pair of query and key features.

    Queries are ``rgb``, ``dna``, ``text``, ``averaged`` and ``concatenated`` (the mean and the
    concatenation of a specimen's photo and barcode embeddings); keys are the same and ``all``, in
    which a key specimen stands once for each of its modalities. Pairs of unequal dimension have no
    similarity and are left out.

    A query without a label at a rank is not counted at that rank, and a key without one is never a
    correct answer. Where no query has a label, there is no number.

    Parameters
    ----------
    keys : Embeddings or mapping
        Key specimens: ``labels`` (N, 4) and any of ``rgb``, ``dna``, ``text`` (N, D).
    queries : mapping of str to Embeddings or mapping
        Query specimens by split, as ``{"seen": ..., "unseen": ...}``.
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.

    Returns
    -------
    dict of str to float
        Accuracies in [0, 1], named ``{query}_to_{key}/{split}/{micro|macro}/top{k}/{rank}``, with
        ``harmonic`` as split for the harmonic mean of ``seen`` and ``unseen``.

    Raises
    ------
    ValueError
        If shapes do not fit, an embedding is not finite, `top_k` is not positive, or there are no
        keys.
    """
    if not top_k or min(top_k) < 1:
        raise ValueError(f"`top_k` must hold positive numbers, but is {list(top_k)}.")
    key_set = _as_embeddings(keys)
    if len(key_set.labels) == 0:
        raise ValueError("There are no keys to search.")
    query_sets = {split: _as_embeddings(values) for split, values in queries.items()}

    results: dict[str, float] = {}
    for key_name, key_features, key_labels in _key_features(key_set):
        for split, query_set in query_sets.items():
            for query_name, query_features in query_set.features().items():
                if len(query_features) == 0 or query_features.shape[1] != key_features.shape[1]:
                    continue
                _, indices = nearest_keys(query_features, key_features, max(top_k))
                scores = _score(key_labels[indices], query_set.labels, top_k)
                prefix = f"{query_name}_to_{key_name}/{split}"
                results |= {f"{prefix}/{name}": value for name, value in scores.items()}
    return results | _harmonic_means(results)


def _as_embeddings(values: Embeddings | Mapping[str, Any]) -> Embeddings:
    return Embeddings(**values) if isinstance(values, Mapping) else values


def _key_features(keys: Embeddings) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield each kind of key feature by name, with the labels that belong to it."""
    features = keys.features()
    for name, values in features.items():
        yield name, values, keys.labels
    single = [features[name] for name in MODALITIES if name in features]
    if single and len({values.shape[1] for values in single}) == 1:
        yield "all", torch.cat(single), keys.labels.repeat(len(single), 1)


def _score(
    neighbour_labels: torch.Tensor, labels: torch.Tensor, top_k: Sequence[int]
) -> dict[str, float]:
    """Score neighbours' labels, shape ``(Q, K, 4)``, against the queries', shape ``(Q, 4)``."""
    scores = {}
    for position, rank in enumerate(RANKS):
        labelled = known(labels[:, position])
        if not labelled.any():
            continue
        truth = labels[labelled, position]
        correct = topk_correct(neighbour_labels[labelled, :, position], truth)
        for k in top_k:
            correct_at_k = correct[:, min(k, correct.shape[1]) - 1]
            scores[f"micro/top{k}/{rank}"] = micro_accuracy(correct_at_k)
            scores[f"macro/top{k}/{rank}"] = macro_accuracy(correct_at_k, truth)
    return scores


def _harmonic_means(results: Mapping[str, float]) -> dict[str, float]:
    means = {}
    for name, seen in results.items():
        unseen = results.get(name.replace("/seen/", "/unseen/"))
        if "/seen/" in name and unseen is not None:
            means[name.replace("/seen/", "/harmonic/")] = harmonic_mean(seen, unseen)
    return means
