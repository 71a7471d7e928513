"""Arguments as users write them: wrong ones are refused before any work."""

from collections.abc import Sequence


def check_choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Refuse a value that is none of `choices`.

    Raises
    ------
    ValueError
        If so; it names argument, choices and value.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}, but is {value!r}.")


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises
    ------
    ValueError
        If so; it names argument, least value and value.
    """
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, but is {value}.")
