"""A menu above a plot, which chooses what it shows."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

Choice = tuple[str, str, list[Any]]
"""Plotly's method (``restyle`` or ``update``), label, and the method's arguments."""


def menu(figure: go.Figure, choices: Sequence[Choice]) -> None:
    """Add a menu at the upper left, and put the legend below; nothing where there is no choice.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        Changed in place; should show the first choice already.
    choices : sequence of tuple
        See `Choice`.
    """
    if len(choices) < 2:
        return
    buttons = [{"method": method, "label": label, "args": args} for method, label, args in choices]
    look = {"bgcolor": "#ffffff", "bordercolor": "#9aa5b1", "borderwidth": 1}
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 16}}
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "showactive": True, **look, **place}],
        legend={"yref": "container", "y": 0, "yanchor": "bottom"},
        margin={"t": 70},
    )


def show_only(count: int, shown: Sequence[int]) -> dict[str, list[bool]]:
    """Return arguments that make some of `count` traces visible."""
    return {"visible": [position in shown for position in range(count)]}
