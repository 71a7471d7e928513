"""What a BIOSCAN HDF5 file holds, as a page that opens offline."""

from pathlib import Path
from typing import Final

import jinja2
from plotly.offline import get_plotlyjs

from projects.bioscan_clip.data_tools.describe import Description
from projects.bioscan_clip.data_tools.describe_plots import make_plots
from projects.bioscan_clip.data_tools.describe_report import storage_sentences, text_tables
from projects.bioscan_clip.data_tools.describe_summary import WHOLE_FILE, taxon_counts

_TEMPLATE: Final = Path(__file__).parent / "templates" / "describe.html.j2"
_PLOT_CONFIG = {"displayModeBar": False, "responsive": True}


def write_page(description: Description, path: Path) -> None:
    """Write a description as one HTML file of about 5 MB, which needs nothing else.

    Parameters
    ----------
    description : Description
        What to show.
    path : pathlib.Path
        The page; its folder is made if missing.
    """
    page = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text("utf-8"))
    plots = [
        {
            "title": plot.title,
            "html": plot.figure.to_html(
                full_html=False, include_plotlyjs=False, config=_PLOT_CONFIG
            ),
            "sentence": plot.sentence,
        }
        for plot in make_plots(description)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        page.render(
            name=description.path.name,
            path=str(description.path.resolve()),
            figures=_key_figures(description),
            storage=storage_sentences(description.storage, description.path),
            expensive=any(kind.is_expensive for kind in description.storage.values()),
            plots=plots,
            tables=text_tables(description),
            plotly=get_plotlyjs(),
        ),
        "utf-8",
    )


def _key_figures(description: Description) -> dict[str, str]:
    """Return the numbers to show first, as text by label."""
    counts = taxon_counts(description).loc[WHOLE_FILE].dropna()
    labels = {
        "specimens": "specimens",
        "order": "orders",
        "family": "families",
        "genus": "genera",
        "species": "species",
        "BIN": "BINs",
    }
    figures = {label: f"{counts[key]:,.0f}" for key, label in labels.items() if key in counts}
    return figures | {"GB": f"{description.size / 1e9:,.2f}"}
