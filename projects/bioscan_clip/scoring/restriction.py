"""Predictions within a taxon or a checklist: which keys a query may take its labels from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, taxon_code

logger = logging.getLogger(__name__)

Restriction = Mapping[str, str | Sequence[str]] | str | Path
"""Names by rank, all of which a key must have, or a file of names of any rank, one a line."""


def allowed_keys(labels: torch.Tensor, restrict_to: Restriction) -> torch.Tensor:
    """Say which key specimens predictions may be taken from.

    Parameters
    ----------
    labels : torch.Tensor
        int64, shape ``(N, 4)``, label codes of the keys. What is unknown matches no name.
    restrict_to : mapping, str or pathlib.Path
        ``{"order": "Diptera"}``, with one name or several per rank, where a key must match at every
        rank given; or the path of a checklist, a text file (UTF-8) with a name of any rank on each
        line, where a key must match one. Empty lines and what follows ``#`` do not count.

    Returns
    -------
    torch.Tensor
        bool, shape ``(N,)``.

    Raises
    ------
    ValueError
        If a rank is unknown, nothing is named, no key matches, or a checklist is not UTF-8.
    FileNotFoundError
        If there is no such checklist.
    """
    if isinstance(restrict_to, Mapping):
        by_rank = _names_by_rank(restrict_to)
        allowed = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        for rank, names in by_rank.items():
            allowed &= _matching(labels[:, [RANKS.index(rank)]], names)
        described = " and ".join(f"{rank} {_first(names)}" for rank, names in by_rank.items())
    else:
        names = _read_checklist(Path(restrict_to))
        allowed = _matching(labels, names)
        described = f"any taxon in {restrict_to}: {_first(names)}"
    if not allowed.any():
        raise ValueError(f"restrict_to: no key specimen is of {described}.")
    return allowed


def checked(restrict_to: Restriction) -> dict[str, list[str]] | str:
    """Return a restriction as plain values, or say what is wrong with it before any work is done.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`allowed_keys`, but for keys that do not match.
    """
    if isinstance(restrict_to, Mapping):
        return _names_by_rank(restrict_to)
    _read_checklist(Path(restrict_to))
    return str(restrict_to)


def _matching(labels: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Say which rows have one of the names, at any of the columns."""
    held = set(labels.unique().tolist()) - {UNKNOWN}
    codes = {name: taxon_code(name.encode()) for name in names}
    absent = [name for name, code in codes.items() if code not in held]
    if absent:
        logger.warning(
            "restrict_to: no key is of %d of %d names: %s", len(absent), len(codes), _first(absent)
        )
    wanted = torch.tensor(sorted(held.intersection(codes.values())), dtype=torch.int64)
    return torch.isin(labels, wanted.to(labels.device)).any(dim=1)


def _names_by_rank(restrict_to: Mapping[str, str | Sequence[str]]) -> dict[str, list[str]]:
    by_rank = {}
    for rank, names in restrict_to.items():
        if rank not in RANKS:
            raise ValueError(f"restrict_to: {rank!r} is not a rank; ranks are {', '.join(RANKS)}.")
        by_rank[rank] = [names] if isinstance(names, str) else list(names or ())
    if not by_rank or not all(by_rank.values()):
        raise ValueError(
            f"restrict_to: {dict(restrict_to)} names no taxon; give a name for each rank, as in "
            "{order: Diptera}."
        )
    return by_rank


def _read_checklist(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"restrict_to: there is no checklist {path}.")
    try:
        text = path.read_text("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"restrict_to: the checklist {path} is not UTF-8 text ({error.reason} at byte "
            f"{error.start}); save it as UTF-8."
        ) from None
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    names = list(dict.fromkeys(line for line in lines if line))
    if not names:
        raise ValueError(f"restrict_to: the checklist {path} names nothing.")
    return names


def _first(names: Sequence[str]) -> str:
    """List a few names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
