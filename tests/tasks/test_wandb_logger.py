import pytest

from projects.bioscan_clip.tasks.wandb_logger import OfflineFallbackWandbLogger


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
