"""Embeddings of specimens, and what can be searched for by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from projects.bioscan_clip.datasets.schema import RANKS

MODALITIES: Final = ("rgb", "dna", "text")
_ROWS_AT_ONCE = 1 << 16


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
        for name in MODALITIES:
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, self._checked(name, torch.as_tensor(values)))

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self.labels)

    @property
    def modalities(self) -> dict[str, torch.Tensor]:
        """The modalities that are there, by name."""
        present = {name: getattr(self, name) for name in MODALITIES}
        return {name: values for name, values in present.items() if values is not None}

    def __getitem__(self, rows: torch.Tensor) -> "Embeddings":
        """Return some of the specimens; `rows` are positions (int64) or a mask (bool)."""
        parts = {name: values[rows] for name, values in self.modalities.items()}
        return Embeddings(labels=self.labels[rows], **parts)

    def _checked(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if values.ndim != 2 or len(values) != len(self.labels):
            raise ValueError(
                f"`{name}` must have shape (N, D) with N = {len(self.labels)} as `labels` has, "
                f"but has shape {tuple(values.shape)}."
            )
        bad = sum(int((~rows.isfinite().all(dim=1)).sum()) for rows in values.split(_ROWS_AT_ONCE))
        if bad:
            raise ValueError(
                f"{bad} of {len(values)} `{name}` embeddings hold NaN or infinity: training "
                "has diverged, or the checkpoint or the features are damaged."
            )
        return values

    @classmethod
    def of(cls, values: "Embeddings | Mapping[str, Any]") -> "Embeddings":
        """Return `values`, made of its parts if they come as a mapping."""
        return cls(**values) if isinstance(values, Mapping) else values

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Put specimens of several sets together; each set must have the same modalities."""
        columns = {name: [part.modalities[name] for part in parts] for name in parts[0].modalities}
        return cls(
            labels=torch.cat([part.labels for part in parts]),
            **{name: torch.cat(values) for name, values in columns.items()},
        )
