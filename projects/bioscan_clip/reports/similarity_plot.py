"""How similar the nearest key is, for queries of seen and unseen species."""

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from projects.bioscan_clip.reports.menu import Choice, menu, show_only
from projects.bioscan_clip.reports.plot import Plot, style
from projects.bioscan_clip.reports.wording import SPLITS, in_order, pair_name
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import Match

_BINS = 60


def similarity_plot(evaluation: Evaluation) -> Plot | None:
    """Plot the distributions of similarities to the nearest key; None where there is no query."""
    figure = go.Figure()
    traces: dict[str, list[int]] = {}
    medians: dict[str, list[str]] = {}
    for pair in in_order((match.query, match.key) for match in evaluation.neighbours):
        name = pair_name(pair)
        found = {split: evaluation.neighbours.get(Match(*pair, split)) for split in SPLITS}
        values = {
            split: near.similarities[:, 0].float().cpu().numpy()
            for split, near in found.items()
            if near is not None and len(near.similarities)
        }
        if not values:
            continue
        together = np.concatenate(list(values.values()))
        # Widened, so that equal values have a bin of some width too.
        edges = np.linspace(together.min() - 1e-3, together.max() + 1e-3, _BINS + 1)
        for split, similarities in values.items():
            shares = np.histogram(similarities, edges)[0] / len(similarities)
            figure.add_scatter(
                x=(edges[:-1] + edges[1:]) / 2, y=shares, name=split, mode="lines",
                line={"color": SPLITS[split], "width": 2, "shape": "hvh"}, fill="tozeroy",
                fillcolor=f"rgba{(*hex_to_rgb(SPLITS[split]), 0.2)}",
                hovertemplate="around %{x:.3f}: %{y:.1%} of queries",
                visible=name == next(iter(traces), name),
            )  # fmt: skip
            traces.setdefault(name, []).append(len(figure.data) - 1)
            medians.setdefault(name, []).append(f"{np.median(similarities):.3f} ({split})")
    if not traces:
        return None
    style(figure, "cosine similarity to the nearest key", "share of queries", height=420)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    count = len(figure.data)
    choices: list[Choice] = [
        ("update", name, [show_only(count, shown)]) for name, shown in traces.items()
    ]
    menu(figure, choices)
    first = next(iter(traces))
    sentence = (
        "How close queries come to their nearest key. The less the two overlap, the better a "
        "threshold on similarity tells queries of unseen species from those of seen ones. "
        f"Median for {first}: {', '.join(medians[first])}."
    )
    return Plot("Similarity to the nearest key", figure, sentence)
