"""Fill a template into one HTML file that needs nothing else."""

from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

_BASE = Path(__file__).parent


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
    loader = jinja2.FileSystemLoader([template.parent, _BASE])
    pages = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined)
    html = pages.get_template(template.name).render(plotly=get_plotlyjs(), **values)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(html, "utf-8")
    unfinished.replace(path)
