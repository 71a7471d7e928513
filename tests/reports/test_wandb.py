import json

import pytest

from projects.bioscan_clip.reports.page import write_page
from projects.bioscan_clip.reports.wandb import log_report
from projects.bioscan_clip.tasks.loggers import OfflineFallbackWandbLogger


@pytest.fixture
def logger(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = OfflineFallbackWandbLogger("a run", tmp_path, "a project")
    yield logger
    logger.finalize("success")


def test_tables_figures_and_page_are_logged(logger, evaluation, tmp_path, about):
    path = tmp_path / "report.html"
    shown = write_page(evaluation, about, path, full=False)
    log_report([logger.experiment], evaluation, [tmp_path / "other.csv", path], shown)
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
