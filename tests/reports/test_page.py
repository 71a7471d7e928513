import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.page import log_page, title, write_page
from projects.bioscan_clip.reports.results import load_published
from projects.bioscan_clip.scoring.accuracy import mistake_table
from projects.bioscan_clip.scoring.calibration import Answers
from projects.bioscan_clip.scoring.confidence import Trust, confidence_table
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.tasks.loggers import OfflineFallbackWandbLogger

NAMES = {("rgb", "dna"): "photo → barcode", ("rgb", "rgb"): "photo → photo"}


class Page(HTMLParser):
    """Text, tables, photos and whatever a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.text, self.fetched, self.photos, self.tables = "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        links = [value for name, value in attrs if name in ("src", "href")]
        self.fetched += [link for link in links if not link.startswith("data:image/jpeg;base64,")]
        if tag == "img":
            self.photos.append(dict(attrs)["alt"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "small":
            self.tables[-1][-1][-1] += " "

    def handle_data(self, data):
        if self.get_starttag_text() and not self.get_starttag_text().startswith("<script"):
            self.text += data
            if self.tables and self.tables[-1] and self.tables[-1][-1]:
                self.tables[-1][-1][-1] += data.strip()


@pytest.fixture
def page_of(tmp_path, about):
    def write(evaluation, **options):
        path = tmp_path / "new" / "report.html"
        write_page(evaluation, about, path, **{"full": False, **options})
        assert [file.name for file in path.parent.iterdir()] == ["report.html"]
        return Page(path.read_text("utf-8"))

    return write


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    """The whole page, and its bytes."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    about = {"file": "sample.hdf5", "splits": {"keys": {"all_keys": len(evaluation.keys)}}}
    published = replace(load_published(), key_specimens=len(evaluation.keys))
    write_page(evaluation, about, path, full=True, published=published)
    return Page(path.read_text("utf-8")), path.read_text("utf-8")


def accuracy_of(page):
    """Rows of the accuracy table by pair and label, as lists of cells."""
    rows, pair = {}, ""
    for label, *cells in page.tables[0][2:]:
        pair = pair if cells else label
        if cells:
            rows.setdefault((pair, label), []).append(cells)
    return rows


def test_accuracies_are_those_of_the_metrics(page, evaluation):
    rows = accuracy_of(page[0])
    metrics = evaluation.metrics.set_index(["query", "key", "average", "k", "level", "split"])
    for (query, key), name in NAMES.items():
        for average in ("micro", "macro"):
            (cells,) = rows[name, average]
            expected = [
                metrics.loc[(query, key, average, 1, rank, split), ["value", "low", "high"]]
                for rank in RANKS
                for split in ("seen", "unseen", "harmonic")
            ]
            assert cells == ["{:.1f} {:.1f}–{:.1f}".format(*(100 * row)) for row in expected]  # noqa: RUF001


def test_published_numbers_stand_beside_the_pair_they_are_of(page):
    rows = accuracy_of(page[0])
    percent = load_published().sources[0].percent
    micro, macro = rows["photo → barcode", "paper"]
    assert micro[0] == f"{percent['order', 'micro', 'seen']:.1f}"
    assert macro[10] == f"{percent['species', 'macro', 'unseen']:.1f}"
    assert macro[11] == ""  # nobody published a harmonic mean
    assert ("photo → photo", "paper") not in rows


def test_published_numbers_of_other_data_are_not_shown(evaluation, page_of):
    page = page_of(evaluation, published=load_published())
    assert "CLIBD" not in page.text


def test_page_stands_alone(page, specimens):
    parsed, html = page
    assert parsed.fetched == []
    assert html.count("plotly.js v") == 1
    assert html.count("Plotly.newPlot(") == 5
    queries = [alt for alt in parsed.photos if alt.startswith("Query:")]
    assert len(queries) == 12
    ids = {*specimens["seen"].table["sampleid"], *specimens["unseen"].table["sampleid"]}
    assert {alt.split("specimen ")[1] for alt in queries} <= ids


def test_a_light_page_has_no_photos_and_no_map(evaluation, page_of):
    page = page_of(evaluation)
    assert page.photos == []
    assert "Map of the embeddings" not in page.text
    assert "The most confused taxa" in page.text


def test_key_figures(page, evaluation):
    numbers = evaluation.numbers()
    share = numbers["rgb_to_dna/unseen/micro/top1/species"]
    assert re.search(rf"{share:.1%}\s*species, photo → barcode, unseen", page[0].text)
    assert re.search(rf"{len(evaluation.keys)}\s*keys", page[0].text)


def test_says_what_was_evaluated(evaluation, page_of, about):
    page = page_of(evaluation)
    assert "bioscan_sample_test" in page.text
    assert "/runs/a/checkpoints/best.ckpt" in page.text
    assert re.search(r"seed of the training\s*7", page.text)
    assert "restricted to" not in page.text  # as it was not
    assert "Not trained" not in page.text
    assert "barcodes corrected" not in page.text
    about["restrict_to"] = {"order": ["Diptera", "Coleoptera"], "family": "Culicidae"}
    about["left_out"] = {"keys": 1200, "seen": 3, "unseen": 0, "tuning_seen": 5}
    about["untrained"] = about["has_seen_bioscan"] = about["correct_barcodes"] = True
    text = page_of(evaluation).text
    assert "Has seen BIOSCAN: the photo encoder was pretrained" in text
    assert "restricted tothe order Diptera or Coleoptera and the family Culicidae" in text
    assert "1,200 keys, 3 queries of seen species, 0 queries of unseen species" in text
    assert "Random weights were scored" in text
    assert "queriesbarcodes corrected by those of the keys" in text


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"experiment": "mine", "checkpoint": "/runs/a/checkpoints/best.ckpt"}, "mine"),
        ({"checkpoint": "/runs/a/checkpoints/best.ckpt", "file": "f.hdf5"}, "a"),
        ({"checkpoint": None, "file": "f.hdf5"}, "f.hdf5"),
        ({"checkpoint": "best.ckpt", "file": "f.hdf5"}, "f.hdf5"),
        ({}, "Evaluation"),
    ],
)
def test_page_is_called_by_its_experiment_or_run(told, expected):
    assert title(told) == expected


def test_mistakes_and_decisions_are_shown(evaluation, page_of):
    mistakes = mistake_table(evaluation.keys, evaluation.queries, evaluation.neighbours)
    kept = evaluation.metrics[~evaluation.metrics["average"].isin(["mistake", "decision"])]
    decisions = {"accuracy": 0.8125, "auroc": 0.876, "threshold": 0.531}
    decision = [
        ("rgb", "is_du", "all", "decision", 1, level, value, np.nan, np.nan, 90)
        for level, value in decisions.items()
    ]
    metrics = pd.concat([kept, mistakes, pd.DataFrame(decision, columns=kept.columns)])
    page = page_of(replace(evaluation, metrics=metrics))
    mean = mistakes.set_index(["query", "key", "split", "level"])["value"]
    assert f"{mean['rgb', 'dna', 'seen', 'mean']:.2f} (seen)" in page.text
    assert "81.2% of queries are rightly taken" in page.text
    assert "AUROC 0.876, threshold 0.531" in page.text


def test_damaged_barcodes_have_a_plot_and_a_table(evaluation, specimens, page_of):
    assert "Damaged barcodes" not in page_of(evaluation).text
    noise = np.random.default_rng(0)
    sets = {"keys": specimens["keys"]} | {
        split: replace(
            specimens[split],
            corrupted={
                name: specimens[split].dna
                + torch.from_numpy(noise.normal(size=specimens[split].dna.shape))
                for name in ("bases_10", "bases_1")
            },
        )
        for split in ("seen", "unseen")
    }
    damaged = evaluate(sets)
    page = page_of(damaged)
    assert "Damaged barcodes" in page.text
    numbers = damaged.numbers()
    for label, query in {
        "as they are": "dna",
        "1% false bases": "dna_bases_1",
        "10% false bases": "dna_bases_10",
    }.items():
        (cells,) = [row[1:] for row in page.tables[1] if row[0] == label]
        expected = [
            f"{100 * numbers[f'{query}_to_dna/{split}/micro/top1/{rank}']:.1f}"
            for rank in RANKS
            for split in ("seen", "unseen", "harmonic")
        ]
        assert cells[:11] == expected[:11]  # the parser adds what follows a table to its last cell


def test_names_are_text_and_not_html(evaluation, tmp_path):
    odd = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    named = {}
    for name, each in evaluation.sets.items():
        table = each.table.copy()
        for column in table:
            table[column] = table[column].where(table[column].isna(), table[column] + odd)
        named[name] = replace(each, table=table)
    path = tmp_path / "report.html"
    about = {"file": odd, "checkpoint": odd, "experiment": odd, "restrict_to": {"order": odd}}
    shown = write_page(replace(evaluation, sets=named), about, path, full=True)
    for name in ("classes", "map"):  # Plotly reads some HTML in labels
        traces = [trace for trace in shown.plots[name].figure.data if trace.hovertext is not None]
        labels = [label for trace in traces for label in trace.hovertext]
        assert any("&lt;img src=x onerror" in label for label in labels)
        assert not any("<img" in label for label in labels)
        assert not any("<img" in (trace.name or "") for trace in traces)
    html = path.read_text("utf-8")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_confidence_is_shown_where_there_is_one(evaluation, page_of):
    assert "Which queries get a name" not in page_of(evaluation).text
    truth = torch.cat([each.labels for each in evaluation.queries.values()]).numpy()
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.uniform(size=truth.shape), axis=1)[:, ::-1]
    names = np.where(rng.uniform(size=truth.shape) < confidence, truth, 1)
    groups = np.resize(["seen", "unseen", "absent"], len(truth))
    accepted = confidence > 0.5
    accepted[groups == "absent", 3] = False
    trust = {("rgb", "dna"): Trust(Answers(names, confidence, groups), accepted, truth, groups)}
    metrics = pd.concat([evaluation.metrics, confidence_table(trust)])
    page = page_of(replace(evaluation, metrics=metrics, trust=trust))
    assert "Can confidences be believed?" in page.text
    assert "Accuracy against coverage" in page.text
    rows = {label: cells for label, *cells in page.tables[-1][2:]}
    chosen = (groups == "seen") & (truth[:, 2] != -1)
    right = (names == truth)[chosen & accepted[:, 2], 2].mean()
    expected = f"{accepted[chosen, 2].mean():.0%} {right:.0%} right"
    assert rows["queries of seen species"][2] == expected
    assert rows["queries of species that no key has"][3] == "0%"


def some_rows(evaluation, queries, modalities=("rgb", "dna", "text")):
    """Evaluate again with fewer queries or modalities."""

    def only(specimens, rows):
        lacking = {name: None for name in ("rgb", "dna", "text") if name not in modalities}
        return replace(specimens[torch.arange(rows)], **lacking)

    sets = {split: only(evaluation.queries[split], rows) for split, rows in queries.items()}
    return evaluate({"keys": only(evaluation.keys, len(evaluation.keys)), **sets})


def test_without_unseen_queries(evaluation, page_of):
    page = page_of(some_rows(evaluation, {"seen": 20}), full=True)
    assert "There were no queries of unseen species." in page.text
    assert page.tables[0][1].count("seen") == 4
    assert "unseen" not in page.tables[0][1]


def test_an_empty_split_of_queries(evaluation, page_of):
    page = page_of(some_rows(evaluation, {"seen": 20, "unseen": 0}), full=True)
    assert "There were no queries of unseen species." in page.text


def test_without_barcodes(evaluation, page_of):
    queries = {"seen": 10, "unseen": 10}
    page = page_of(some_rows(evaluation, queries, ("rgb",)), full=True)
    assert "No barcodes were embedded." in page.text
    assert "photo → barcode" not in page.text
    assert "photo → photo" in page.text
    assert page.photos


def test_without_photos_embedded(evaluation, page_of):
    queries = {"seen": 10, "unseen": 10}
    page = page_of(some_rows(evaluation, queries, ("dna",)), full=True)
    assert "No photos were embedded." in page.text
    assert "barcode → barcode" in page.text


def test_one_query(evaluation, page_of):
    page = page_of(some_rows(evaluation, {"seen": 1}), full=True)
    assert sum(alt.startswith("Query:") for alt in page.photos) == 1


def test_without_photos(evaluation, page_of):
    sets = {name: replace(each, read_photo=None) for name, each in evaluation.sets.items()}
    page = page_of(replace(evaluation, sets=sets), full=True)
    assert page.photos == []
    assert "Queries and their nearest keys" not in page.text
    assert "Map of the embeddings" in page.text


def test_a_damaged_photo(evaluation, page_of):
    broken = {
        name: replace(each, read_photo=lambda row: b"\xff\xd8" + b"no picture" * 5000)
        for name, each in evaluation.sets.items()
    }
    page = page_of(replace(evaluation, sets=broken), full=True)
    assert "photo cannot be read" in page.text


@pytest.mark.parametrize("unknown", [("species",), RANKS])
def test_without_names_at_a_rank(specimens, page_of, make_specimens, unknown):
    sets = {
        name: make_specimens(each.table.assign(**dict.fromkeys(unknown, pd.NA)).astype("string"))
        for name, each in specimens.items()
    }
    page = page_of(evaluate(sets), full=True)
    assert f"No query has a known {' or '.join(unknown)}." in page.text
    assert "nan" not in re.findall(r"[a-z]+", page.text)


@pytest.fixture
def logger(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = OfflineFallbackWandbLogger("a run", tmp_path, "a project")
    yield logger
    logger.finalize("success")


def test_tables_figures_and_page_are_logged(logger, evaluation, tmp_path, about):
    path = tmp_path / "report.html"
    shown = write_page(evaluation, about, path, full=False)
    log_page([logger.experiment], evaluation, path, shown)
    logged = dict(logger.experiment.summary)
    kinds = {name: logged[name]["_type"] for name in logged if name.startswith("report/")}
    assert kinds["report/metrics"] == "table-file"
    assert kinds["report/confused_species"] == "table-file"
    assert kinds["report/accuracy"] == kinds["report/classes"] == "plotly-file"
    assert kinds["report/page"] == "html-file"
    assert {f"report/{name}" for name in shown.plots} <= set(kinds)
    folder = next((tmp_path / "wandb").glob("offline-run-*")) / "files"
    table = json.loads((folder / logged["report/metrics"]["path"]).read_text())
    assert table["columns"] == list(evaluation.metrics.columns)
    assert len(table["data"]) == len(evaluation.metrics)
    assert (folder / logged["report/page"]["path"]).read_text("utf-8") == path.read_text("utf-8")
