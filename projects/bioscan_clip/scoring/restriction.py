"""Predictions within a taxon or a checklist: which keys a query may take its labels from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from projects.bioscan_clip.datasets.schema import RANKS, Role
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, taxon_code
from projects.bioscan_clip.scoring.specimens import Specimens

logger = logging.getLogger(__name__)

Restriction = Mapping[str, str | Sequence[str]] | str | Path
"""Names by rank, all of which a key must have, or a file of names of any rank, one a line."""


def restrict(
    sets: Mapping[Role, Specimens], restrict_to: Restriction
) -> tuple[dict[Role, Specimens], dict[Role, int]]:
    """Keep the specimens of some taxa: predictions are taken from these, for queries of these.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        With ``keys``.
    restrict_to : mapping, str or pathlib.Path
        See :func:`allowed_keys`.

    Returns
    -------
    sets : dict of Role to Specimens
        Those of the taxa. Who has no known label at a rank that is named is not among them.
    left_out : dict of Role to int
        How many others there were.

    Raises
    ------
    ValueError
        As :func:`allowed_keys`; or if no query is of the taxa.
    """
    conditions = _conditions(restrict_to)
    inside = {role: _matching(specimens.labels, conditions) for role, specimens in sets.items()}
    inside["keys"] = allowed_keys(sets["keys"].labels, restrict_to)
    if not any(inside[role].any() for role in ("seen", "unseen") if role in inside):
        raise ValueError(f"restrict_to: no query is of {described(restrict_to)}.")
    kept = {role: specimens[inside[role]] for role, specimens in sets.items()}
    return kept, {role: int((~each).sum()) for role, each in inside.items()}


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
        bool, shape ``(N,)``. Names that no key has are listed in a warning.

    Raises
    ------
    ValueError
        If a rank is unknown, nothing is named, no key matches, or a checklist is not UTF-8.
    FileNotFoundError
        If there is no such checklist.
    """
    conditions = _conditions(restrict_to)
    for ranks, names in conditions:
        held = set(labels[:, ranks].unique().tolist()) - {UNKNOWN}
        absent = [name for name in names if taxon_code(name.encode()) not in held]
        if absent:
            logger.warning(
                "restrict_to: no key is of %d of %d names: %s",
                *(len(absent), len(names), _first(absent)),
            )
    allowed = _matching(labels, conditions)
    if not allowed.any():
        raise ValueError(f"restrict_to: no key specimen is of {described(restrict_to)}.")
    return allowed


def described(restrict_to: Restriction) -> str:
    """Return a restriction in words, such as ``order Diptera and family Culicidae``."""
    if isinstance(restrict_to, Mapping):
        by_rank = _names_by_rank(restrict_to)
        return " and ".join(f"{rank} {_first(names, ' or ')}" for rank, names in by_rank.items())
    return f"any taxon in {restrict_to} ({_first(_read_checklist(Path(restrict_to)))})"


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


def _conditions(restrict_to: Restriction) -> list[tuple[list[int], list[str]]]:
    """Return columns of labels, and names of which one must stand there; all must be met."""
    if isinstance(restrict_to, Mapping):
        by_rank = _names_by_rank(restrict_to)
        return [([RANKS.index(rank)], names) for rank, names in by_rank.items()]
    return [(list(range(len(RANKS))), _read_checklist(Path(restrict_to)))]


def _matching(
    labels: torch.Tensor, conditions: Sequence[tuple[list[int], list[str]]]
) -> torch.Tensor:
    matching = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    for ranks, names in conditions:
        codes = torch.tensor([taxon_code(name.encode()) for name in names], device=labels.device)
        matching &= torch.isin(labels[:, ranks], codes[codes != UNKNOWN]).any(dim=1)
    return matching


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


def _first(names: Sequence[str], between: str = ", ") -> str:
    """List a few names."""
    return between.join([*names[:5], *(["..."] if len(names) > 5 else [])])
