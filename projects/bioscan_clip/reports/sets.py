"""All that one evaluation is about: embeddings of keys and queries, and who they are of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from projects.bioscan_clip.reports.specimens import Specimens
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.restriction import Restriction, allowed_keys


@dataclass(frozen=True)
class EvaluatedSets:
    """Sets of specimens by role.

    Attributes
    ----------
    embeddings : mapping of str to Embeddings
        By role: ``keys``; queries ``seen`` and ``unseen``; and queries that settle thresholds,
        ``tuning_seen`` and ``tuning_unseen``. Any may be missing.
    specimens : mapping of str to Specimens
        Who they are, by role; empty where nobody asks.
    stage : str
        ``test`` or ``val``.
    seen_key : torch.Tensor or None
        bool, shape ``(N,)``; which keys are of species seen in training, if that is known.
    """

    embeddings: Mapping[str, Embeddings]
    specimens: Mapping[str, Specimens]
    stage: Literal["test", "val"]
    seen_key: torch.Tensor | None = None

    @property
    def queries(self) -> dict[str, Embeddings]:
        """Those to be scored, by split."""
        splits = ("seen", "unseen")
        return {split: self.embeddings[split] for split in splits if split in self.embeddings}

    @property
    def tuning(self) -> dict[str, Embeddings]:
        """Those that settle thresholds, by split."""
        splits = {"seen": "tuning_seen", "unseen": "tuning_unseen"}
        return {
            split: self.embeddings[role]
            for split, role in splits.items()
            if role in self.embeddings
        }

    def restricted_to(self, taxa: Restriction) -> "EvaluatedSets":
        """Keep only the keys of some taxa; see :func:`allowed_keys`."""
        keys = self.embeddings["keys"]
        kept = allowed_keys(keys.labels, taxa)
        specimens = dict(self.specimens)
        if "keys" in specimens:
            specimens["keys"] = specimens["keys"][kept.cpu().numpy()]
        return replace(
            self,
            embeddings={**self.embeddings, "keys": keys[kept]},
            specimens=specimens,
            seen_key=None if self.seen_key is None else self.seen_key[kept],
        )
