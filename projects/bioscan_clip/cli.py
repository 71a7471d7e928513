"""The `bioscan-clip` command: tools around training, which is `mmlearn_run`'s."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Tools for BIOSCAN-CLIP: data files, and a check of what an experiment needs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
data = typer.Typer(help="Make data files.", no_args_is_help=True)
app.add_typer(data, name="data")

# Imports stand inside the commands, so that `--help` is quick and `doctor` runs where they fail.


@data.command()
def sample(
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    species: Annotated[int, typer.Option(help="Number of species with a name.")] = 200,
    specimens: Annotated[int, typer.Option(help="Number of specimens in all.")] = 4000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write a synthetic file in the layout of BIOSCAN-1M: invented insects to try things on."""
    from projects.bioscan_clip.data_tools.sample.file import write_sample

    try:
        write_sample(out, n_species=species, n_specimens=specimens, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"Wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")


@app.command()
def results(
    run: Annotated[Path, typer.Argument(help="Output folder of a run, which holds metrics.json.")],
) -> None:
    """Print the accuracies that a run saved."""
    from projects.bioscan_clip.tasks.report import load_metrics, print_accuracy

    try:
        metrics = load_metrics(run)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    print_accuracy(metrics)


@app.command()
def doctor(
    experiment: Annotated[
        str | None, typer.Option(help="Experiment to check, such as bioscan_1m.")
    ] = None,
) -> None:
    """Say what is fine, what is missing, and the command that mends it."""
    from projects.bioscan_clip.doctor import examine, print_findings

    findings = examine(experiment)
    print_findings(findings)
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(code=1)
