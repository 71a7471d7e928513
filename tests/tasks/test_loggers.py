import csv

import pytest

from projects.bioscan_clip.tasks.loggers import ContinuedCSVLogger, OfflineFallbackWandbLogger


def log(folder, **rows) -> None:
    """Log rows, given as ``step_3={...}``, as one start of a training."""
    logger = ContinuedCSVLogger(folder, name="logs")
    for step, metrics in rows.items():
        logger.log_metrics(metrics, step=int(step.removeprefix("step_")))
    logger.finalize("success")


def table(folder) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = csv.DictReader(file)
        return [{name: value for name, value in row.items() if value} for row in rows]


def test_resumed_training_goes_on_with_the_table(tmp_path):
    log(tmp_path, step_0={"loss": 4.0}, step_1={"loss": 3.0}, step_2={"loss": 2.0})
    log(tmp_path, step_2={"loss": 2.5}, step_3={"accuracy": 0.5})
    log(tmp_path)  # ends before it logs anything
    log(tmp_path, step_4={"loss": 1.0})
    assert table(tmp_path) == [
        {"step": "0", "loss": "4.0"},
        {"step": "1", "loss": "3.0"},
        {"step": "2", "loss": "2.5"},
        {"step": "3", "accuracy": "0.5"},
        {"step": "4", "loss": "1.0"},
    ]
    assert [path.name for path in (tmp_path / "logs").glob("metrics*")] == ["metrics.csv"]


def test_an_evaluation_leaves_the_training_s_table_as_it_is(tmp_path):
    log(tmp_path, step_0={"loss": 4.0}, step_1={"loss": 3.0})
    before = (tmp_path / "logs" / "metrics.csv").read_bytes()
    log(tmp_path, step_0={"test/loss": 2.0})
    assert (tmp_path / "logs" / "metrics.csv").read_bytes() == before
    assert "test/loss" in (tmp_path / "logs" / "version_1" / "metrics.csv").read_text()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def run_in(folder) -> str:
    """Log a number and return the id of the run that it went to."""
    logger = OfflineFallbackWandbLogger("a name", folder, "a project")
    logger.log_metrics({"loss": 1.0}, step=0)
    run = logger.experiment.id
    logger.finalize("success")
    return run


def test_a_folder_has_one_run(offline, tmp_path):
    first = run_in(tmp_path / "first")
    assert run_in(tmp_path / "first") == first
    assert run_in(tmp_path / "second") != first
    folders = [path.name for path in (tmp_path / "first" / "wandb").glob("offline-run-*")]
    assert len(folders) == 2  # one for each start, of the same run
    assert all(f"-{first}" in name for name in folders)


def test_own_id_is_kept(offline, tmp_path):
    assert OfflineFallbackWandbLogger("a name", tmp_path, "a project", id="mine").version == "mine"


def test_other_processes_make_up_no_id(monkeypatch, tmp_path):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert OfflineFallbackWandbLogger("a name", tmp_path, "a project").version is None
    assert not list(tmp_path.iterdir())
