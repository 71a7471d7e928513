"""What all pages share: one look, plots with menus, one file that opens offline."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from projects.bioscan_clip.files import write_whole

NEUTRAL: Final = "#56708a"
SEEN: Final = "#009e73"
UNSEEN: Final = "#cc79a7"
COLOURS: Final = {"seen": SEEN, "unseen": UNSEEN}
"""Of the splits of queries."""


_FOLDER = Path(__file__).parent
LOOK: Final = (_FOLDER / "look.css").read_text("utf-8")
"""Colours and shapes of all pages, light or dark."""

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

    Its colours of text, lines and ground are those of ``look.css``, light or dark.

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
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
        barmode="overlay",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    if figure.layout.updatemenus:  # which stands where the legend would
        figure.update_layout(legend={"yref": "container", "y": 0}, margin={"t": 70})
    figure.update_xaxes(title=x_title or None, automargin=True, separatethousands=True)
    figure.update_yaxes(
        title=y_title or None, automargin=True, separatethousands=True, ticklabelstandoff=6
    )


def menu_of(figures: Mapping[str, go.Figure]) -> go.Figure:
    """Put figures in one place, with a menu at the upper left that chooses which is shown.

    Where there is no choice, there is no menu; else the legend moves below.

    Parameters
    ----------
    figures : mapping of str to plotly.graph_objects.Figure
        By what the menu calls them; the first is shown at first. Only their traces are taken.
    """
    owners = [name for name, figure in figures.items() for _ in figure.data]
    shown = {name: [owner == name for owner in owners] for name in figures}
    together = go.Figure([trace for figure in figures.values() for trace in figure.data])
    for trace, visible in zip(together.data, next(iter(shown.values())), strict=True):
        trace.visible = visible
    if len(figures) > 1:
        together.update_layout(
            updatemenus=[
                {
                    "buttons": [
                        {"method": "update", "label": name, "args": [{"visible": visible}]}
                        for name, visible in shown.items()
                    ],
                    **{"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 16}},
                }
            ]
        )
    return together


def render(template: Path, path: Path, **values: Any) -> None:
    """Write a page of about 5 MB, plotly.js included, whole or not at all.

    Parameters
    ----------
    template : pathlib.Path
        Jinja template that extends ``base.html.j2``.
    path : pathlib.Path
        The page; its folder is made if missing.
    **values
        What the template shows; text is escaped.
    """
    loader = jinja2.FileSystemLoader([template.parent, _FOLDER])
    pages = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined)
    html = pages.get_template(template.name).render(plotly=get_plotlyjs(), **values)
    write_whole(path, lambda unfinished: unfinished.write_text(html, "utf-8"))
