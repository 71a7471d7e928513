"""The `bioscan-clip` command: tools around training, which is `mmlearn_run`'s."""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from projects.bioscan_clip.files import check_output


class Commands(TyperGroup):
    """Commands that raise OSError or ValueError for what the user can correct.

    Such an error is printed to stderr as a sentence, and the exit status is 1.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader, such as `head`, has had enough; Typer ends quietly
        except (OSError, ValueError) as error:
            sentence = str(error)
            if isinstance(error, OSError) and error.strerror and error.filename:
                sentence = f"{error.filename}: {error.strerror}"
            typer.echo(f"Error: {sentence}", err=True)
            raise typer.Exit(code=1) from error


Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_show_locals=False)
data = typer.Typer(help="Get, make and check data files.", no_args_is_help=True)
app.add_typer(data, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bioscan-clip {importlib.metadata.version('bioscan-clip')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Tools for BIOSCAN-CLIP: data files, and a check of what an experiment needs."""


# Imports are inside the commands, so that `--help` is quick and `doctor` runs where they fail.


@data.command()
def sample(
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    species: Annotated[int, typer.Option(help="Number of species with a name.")] = 200,
    specimens: Annotated[int, typer.Option(help="Number of specimens in all.")] = 4000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    force: Force = False,
) -> None:
    """Write a synthetic file in the layout of BIOSCAN-1M: invented insects to try things on."""
    from projects.bioscan_clip.sample.file import write_sample

    check_output(out, force=force)
    write_sample(out, n_species=species, n_specimens=specimens, seed=seed)
    typer.echo(f"Wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")


@data.command()
def split(
    metadata: Annotated[Path, typer.Argument(help="A table of specimens, TSV or CSV.")],
    out: Annotated[Path, typer.Option(help="The folder to write lists of specimens to.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same partition.")] = 0,
    species_column: Annotated[str, typer.Option(help="Column of the species.")] = "species",
    id_column: Annotated[str, typer.Option(help="Column of the specimen's id.")] = "sampleid",
    force: Force = False,
) -> None:
    """Partition specimens as the paper does: seen and unseen species, queries and keys."""
    from projects.bioscan_clip.data_tools.splits import print_counts, split_table

    counts = split_table(metadata, out, seed, species_column, id_column, force)
    print_counts(counts)


@data.command()
def build(
    dataset: Annotated[Literal["1m", "5m"], typer.Option(help="BIOSCAN-1M or BIOSCAN-5M.")],
    root: Annotated[Path, typer.Option(help="The folder that holds bioscan1m or bioscan5m.")],
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    image_package: Annotated[
        str, typer.Option(help="Which pictures: a folder of `images`.")
    ] = "cropped_256",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read pictures; as many as cores if not given."),
    ] = None,
    text_tokenizer: Annotated[
        str, typer.Option(help="Hugging Face tokenizer of names: a name, or a folder.")
    ] = "prajjwal1/bert-small",
    force: Force = False,
) -> None:
    """Build a file from the published metadata and pictures; run it again to resume."""
    from projects.bioscan_clip.data_tools.build import build as build_file
    from projects.bioscan_clip.data_tools.build import print_built

    built = build_file(dataset, root, out, image_package, processes, text_tokenizer, force)
    print_built(built, out)


@data.command()
def repack(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to read.")],
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    force: Force = False,
) -> None:
    """Rewrite a file so that reading one photo costs one photo; run it again to resume."""
    from projects.bioscan_clip.data_tools.repack import photo_cost
    from projects.bioscan_clip.data_tools.repack import repack as repack_file

    check_output(out, [file], force)
    repack_file(file, out)
    typer.echo(f"Wrote {out}: every value is as in the source.")
    if photo_cost(out) is not None:
        typer.echo(f"To read one photo takes {photo_cost(out):,} bytes, not {photo_cost(file):,}.")


@data.command()
def subset(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to read.")],
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    specimens: Annotated[int, typer.Option(help="How many specimens to keep, in all splits.")],
    seed: Annotated[int, typer.Option(help="The same seed keeps the same specimens.")] = 0,
    force: Force = False,
) -> None:
    """Write a smaller file with the same splits: whole species, with their keys and queries."""
    from projects.bioscan_clip.data_tools.subset import write_subset

    check_output(out, [file], force)
    kept = write_subset(file, out, specimens, seed)
    typer.echo(f"Wrote {out}: {kept} specimens ({out.stat().st_size / 1e6:.0f} MB)")


@data.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to check.")],
    photos: Annotated[
        int, typer.Option(min=0, help="How many photos to decode of each split, at random.")
    ] = 1000,
    every_photo: Annotated[bool, typer.Option("--all", help="Decode every photo.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that decode photos; as many as cores if not given."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    force: Force = False,
) -> None:
    """Check a file: layout, photos, labels, splits, barcodes and tokens; status 1 on errors."""
    from projects.bioscan_clip.data_tools.verify import print_report, save_report
    from projects.bioscan_clip.data_tools.verify import verify as verify_file

    if json is not None:
        check_output(json, [file], force)
    report = verify_file(file, None if every_photo else photos, processes)
    print_report(report)
    if json is not None:
        save_report(report, json)
    if report.count("error"):
        raise typer.Exit(code=1)


@data.command()
def describe(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to describe.")],
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with plots, which opens offline.")
    ] = None,
    force: Force = False,
) -> None:
    """Say what a file holds: specimens and taxa per split, labels, barcodes, photos, storage."""
    from projects.bioscan_clip.data_tools.describe import describe as describe_file
    from projects.bioscan_clip.data_tools.describe_report import print_description, write_page

    if html is not None:
        check_output(html, [file], force)
    description = describe_file(file)
    print_description(description)
    if html is not None:
        write_page(description, html)
        typer.echo(f"Wrote {html}")


@app.command()
def results(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Output folders of runs, or folders of many, as --multirun makes."),
    ],
    query: Annotated[str, typer.Option(help="Feature of queries, such as rgb.")] = "rgb",
    key: Annotated[str, typer.Option(help="Feature of keys, such as dna.")] = "dna",
    form: Annotated[
        Literal["rich", "markdown", "latex", "csv"],
        typer.Option("--format", help="How to write the table."),
    ] = "rich",
    out: Annotated[Path | None, typer.Option(help="A file to write it to.")] = None,
    force: Force = False,
) -> None:
    """Print accuracies of runs, their mean and deviation, beside published figures."""
    from projects.bioscan_clip.reports.results_table import print_results

    print_results(runs, query, key, form, out, force)


@app.command()
def evaluate(
    embeddings: Annotated[
        Path,
        typer.Option(help="embeddings.hdf5 of a run, or a folder of CLIBD's extracted features."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for metrics and the report.")],
    report: Annotated[
        Literal["off", "light", "full"],
        typer.Option(help="Only metrics.json; tables and a page; or also a map of embeddings."),
    ] = "full",
    search: Annotated[
        Literal["exact", "approximate"],
        typer.Option(help="Compare all keys, or find most of the nearest sooner with FAISS."),
    ] = "exact",
    restrict_to: Annotated[
        Path | None, typer.Option(help="A checklist: names of taxa to predict, one a line.")
    ] = None,
    linear_head: Annotated[
        bool | None,
        typer.Option(help="Fit a linear classifier too; by default where it takes minutes."),
    ] = None,
    clibd: Annotated[
        bool, typer.Option("--clibd", help="Also write the files that CLIBD's evaluation reads.")
    ] = False,
) -> None:
    """Score saved embeddings, without a model."""
    from projects.bioscan_clip.reports.evaluation import evaluate_saved

    evaluate_saved(
        embeddings,
        out,
        report=report,
        search=search,
        restrict_to=restrict_to,
        linear_head=linear_head,
        clibd=clibd,
    )


@app.command()
def doctor(
    experiment: Annotated[
        str | None, typer.Option(help="Experiment to check, such as bioscan_1m.")
    ] = None,
) -> None:
    """Say what is fine, what is missing, and the command that fixes it."""
    from projects.bioscan_clip.doctor import examine, print_findings

    findings = examine(experiment)
    print_findings(findings)
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(code=1)
