"""A plot on a page, and the look that all plots share."""

from dataclasses import dataclass
from typing import Final

import plotly.graph_objects as go

INK: Final = "#1f2933"
NEUTRAL: Final = "#56708a"
SEEN: Final = "#009e73"
UNSEEN: Final = "#cc79a7"
SHADES: Final = ("#f5f7f8", "#b9cfe0", "#5b93bd", "#0b4f7d")
"""From little to much."""

_CONFIG = {"displayModeBar": False, "responsive": True}


@dataclass(frozen=True)
class Plot:
    """A figure with a heading and a sentence that says what one sees."""

    title: str
    figure: go.Figure
    sentence: str

    @property
    def html(self) -> str:
        """The figure for a page that holds plotly.js already."""
        html: str = self.figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG)
        return html


def style(figure: go.Figure, x_title: str, y_title: str, height: int = 400) -> None:
    """Give a figure the look of all pages.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        Changed in place.
    x_title, y_title : str
        What the axes show, with units.
    height : int, default=400
        Pixels.
    """
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 10, "r": 40, "t": 30, "b": 10},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        barmode="overlay",
    )
    figure.update_xaxes(title=x_title or None, automargin=True, separatethousands=True)
    figure.update_yaxes(
        title=y_title or None, automargin=True, separatethousands=True, ticklabelstandoff=6
    )
