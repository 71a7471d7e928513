import csv

from projects.bioscan_clip.tasks.csv_logger import ContinuedCSVLogger


def log(folder, **rows) -> None:
    """Log rows, given as ``step_3={...}``, as one start of a training."""
    logger = ContinuedCSVLogger(folder, name="logs", version="")
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
