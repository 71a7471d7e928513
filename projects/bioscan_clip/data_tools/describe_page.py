"""What a BIOSCAN HDF5 file holds, as a page that opens offline."""

from pathlib import Path
from typing import Final

from projects.bioscan_clip.data_tools.describe import Description
from projects.bioscan_clip.data_tools.describe_plots import make_plots
from projects.bioscan_clip.data_tools.describe_report import storage_sentences, text_tables
from projects.bioscan_clip.data_tools.describe_summary import WHOLE_FILE, taxon_counts
from projects.bioscan_clip.reports.html import render

_TEMPLATE: Final = Path(__file__).with_name("describe.html.j2")


def write_page(description: Description, path: Path) -> None:
    """Write a description as one HTML file of about 5 MB, which needs nothing else.

    Parameters
    ----------
    description : Description
        What to show.
    path : pathlib.Path
        The page; its folder is made if missing.
    """
    render(
        _TEMPLATE,
        path,
        name=description.path.name,
        path_of_file=str(description.path.resolve()),
        figures=_key_figures(description),
        storage=storage_sentences(description.storage, description.path),
        expensive=any(kind.is_expensive for kind in description.storage.values()),
        plots=list(make_plots(description)),
        tables=text_tables(description),
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
