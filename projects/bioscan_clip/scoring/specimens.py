"""Some specimens and what is known of them: the one type that evaluations pass around."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS, UNKNOWN_NAMES, Role

MODALITIES: Final = ("rgb", "dna", "text")
COLUMNS: Final = (*IDENTIFIERS, *RANKS)
SPLITS: Final[Mapping[str, tuple[Role, Role]]] = {
    "seen": ("seen", "tuning_seen"),
    "unseen": ("unseen", "tuning_unseen"),
}
"""Roles of the queries of each split: those that are scored, and those that thresholds are tuned
on."""

_ROWS_AT_ONCE: Final = 1 << 16


@dataclass
class Specimens:
    """Some specimens: their labels, embeddings, names, ids and photos, row by row.

    Attributes
    ----------
    labels : torch.Tensor
        int64, shape ``(N, 4)``, codes of order, family, genus and species, -1 if unknown.
    rgb, dna, text : torch.Tensor, optional
        Embeddings, floating point, shape ``(N, D)``; not necessarily normalised.
    table : pandas.DataFrame, optional
        ``sampleid``, ``processid``, ``image_file``, ``order``, ``family``, ``genus`` and
        ``species``: strings, missing (NA) where unknown. None where nobody asks.
    read_photo : callable, optional
        Returns the JPEG bytes of the photo of a row; None where there are no photos.
    is_seen : torch.Tensor, optional
        bool, shape ``(N,)``; whether a specimen's species was seen in training. None if unknown.
    splits : tuple of str
        The splits that they are from.
    corrupted : mapping of str to torch.Tensor
        Embeddings of their barcodes after each kind of damage, shape ``(N, D)``; empty where nobody
        asks.

    Raises
    ------
    ValueError
        If shapes do not fit, or an embedding is not finite.
    """

    labels: torch.Tensor
    rgb: torch.Tensor | None = None
    dna: torch.Tensor | None = None
    text: torch.Tensor | None = None
    table: pd.DataFrame | None = None
    read_photo: Callable[[int], bytes] | None = None
    is_seen: torch.Tensor | None = None
    splits: tuple[str, ...] = ()
    corrupted: Mapping[str, torch.Tensor] = field(default_factory=dict)

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
        for name, values in self.corrupted.items():
            self._checked(f"dna after {name}", values)
        for name in ("table", "is_seen"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self):
                raise ValueError(f"`{name}` has {len(values)} rows, but `labels` has {len(self)}.")

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self.labels)

    @property
    def modalities(self) -> dict[str, torch.Tensor]:
        """The embeddings that there are, by modality."""
        present = {name: getattr(self, name) for name in MODALITIES}
        return {name: values for name, values in present.items() if values is not None}

    @property
    def averaged(self) -> torch.Tensor | None:
        """Means of photo and barcode embeddings, (N, D); None if they are not of one dimension."""
        if self.rgb is None or self.dna is None or self.rgb.shape != self.dna.shape:
            return None
        return (self.rgb.float() + self.dna.float()) / 2

    @property
    def names(self) -> pd.DataFrame:
        """The table, for those who cannot do without it.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.table is None:
            raise ValueError("Nobody looked up who these specimens are.")
        return self.table

    def __getitem__(self, rows: torch.Tensor) -> "Specimens":
        """Return some of the specimens; `rows` are positions (int64) or a mask (bool)."""
        rows = torch.as_tensor(rows)
        positions = (rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows).cpu().numpy()
        read = self.read_photo
        return Specimens(
            labels=self.labels[rows],
            **{name: values[rows] for name, values in self.modalities.items()},
            table=None if self.table is None else self.table.iloc[positions].reset_index(drop=True),
            read_photo=None if read is None else lambda row: read(int(positions[row])),
            is_seen=None if self.is_seen is None else self.is_seen[rows],
            splits=self.splits,
            corrupted={name: values[rows] for name, values in self.corrupted.items()},
        )

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
    def of(cls, values: "Specimens | Mapping[str, Any]") -> "Specimens":
        """Return `values`, made of its parts if they come as a mapping."""
        return cls(**values) if isinstance(values, Mapping) else values

    @classmethod
    def concatenate(cls, parts: "Sequence[Specimens]") -> "Specimens":
        """Put specimens of several sets together; what one of them lacks is left out."""
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> torch.Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if any(each is None for each in values) else torch.cat(values)

        tables = [part.table for part in parts if part.table is not None]
        return cls(
            labels=torch.cat([part.labels for part in parts]),
            **{name: joined(name) for name in (*MODALITIES, "is_seen")},
            table=pd.concat(tables, ignore_index=True) if len(tables) == len(parts) else None,
            read_photo=_joined_reader(parts),
            splits=tuple(dict.fromkeys(split for part in parts for split in part.splits)),
            corrupted={
                name: torch.cat([part.corrupted[name] for part in parts])
                for name in parts[0].corrupted
                if all(name in part.corrupted for part in parts)
            },
        )


def queries_of(sets: Mapping[Role, Specimens], tuning: bool = False) -> dict[str, Specimens]:
    """Return the queries that are scored, or those that thresholds are tuned on, by split."""
    roles = {split: both[tuning] for split, both in SPLITS.items()}
    return {split: sets[role] for split, role in roles.items() if role in sets}


def table_of(columns: Mapping[str, npt.NDArray[Any]], count: int) -> pd.DataFrame:
    """Make the table of `count` specimens from the columns that there are.

    Parameters
    ----------
    columns : mapping of str to numpy.ndarray
        Bytes, shape ``(count,)``, by name; those of ``UNKNOWN_NAMES`` are missing.
    count : int
        Specimens.

    Returns
    -------
    pandas.DataFrame
        See :class:`Specimens`.
    """
    table = pd.DataFrame(index=range(count), columns=list(COLUMNS), dtype="string")
    unknown = [name.decode() for name in UNKNOWN_NAMES]
    for name in COLUMNS:
        if name in columns:
            texts = pd.Series(columns[name].astype(bytes)).str.decode("utf-8", errors="replace")
            table[name] = texts.astype("string").mask(texts.isin(unknown))
    return table


def _joined_reader(parts: Sequence[Specimens]) -> Callable[[int], bytes] | None:
    readers = [part.read_photo for part in parts if part.read_photo is not None]
    if len(readers) < len(parts):
        return None
    starts = np.cumsum([0, *(len(part) for part in parts)])

    def read_photo(row: int) -> bytes:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return readers[part](row - int(starts[part]))

    return read_photo
