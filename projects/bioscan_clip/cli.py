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
TableForm = Annotated[
    Literal["rich", "markdown", "latex", "csv"],
    typer.Option("--format", help="How to write the table."),
]
TableFile = Annotated[Path | None, typer.Option(help="A file to write it to.")]

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_show_locals=False)
data = typer.Typer(help="Get, make and check data files.", no_args_is_help=True)
app.add_typer(data, name="data")
library = typer.Typer(help="Known specimens that others are named by.", no_args_is_help=True)
app.add_typer(library, name="library")
model = typer.Typer(help="Trained models: import, export, look at.", no_args_is_help=True)
app.add_typer(model, name="model")
importing = typer.Typer(
    help="Turn models of other projects into ones of this.", no_args_is_help=True
)
model.add_typer(importing, name="import")


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
    form: TableForm = "rich",
    out: TableFile = None,
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of an evaluation that is there.")
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
        force=force,
    )


@app.command()
def bzsl(
    model: Annotated[str, typer.Argument(help="A checkpoint, or the folder of a run.")],
    data: Annotated[Path, typer.Option(help="The folder of INSECT's files.")],
    form: TableForm = "rich",
    out: TableFile = None,
    force: Force = False,
) -> None:
    """Score a model on INSECT: photos of species without a training photo, named through DNA."""
    from projects.bioscan_clip.inference.bzsl import bzsl as score

    score(model, data, form, out, force)


Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Photos, folders, patterns; tables (CSV, TSV, Parquet); FASTA or FASTQ; a split as "
        "file.hdf5::test_seen; or - for such names on the standard input."
    ),
]
ModelPath = Annotated[
    str | None, typer.Option("--model", help="The model, if not where the library says.")
]
Split = Annotated[str | None, typer.Option(help="Split of HDF5 files.")]
Photos = Annotated[Path | None, typer.Option(help="Folder of the photos that tables name.")]
Taxonomy = Annotated[Path | None, typer.Option(help="A table of names for FASTA records.")]
Cropping = Annotated[
    Literal["none", "auto"], typer.Option(help="Find the specimen in each photo and cut it out.")
]
SaveCrops = Annotated[
    Path | None, typer.Option(help="Folder where crops are written, to look at them.")
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="Run as a SLURM array: partition=a40,mem_gb=32, and others."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Jobs of the SLURM array.")]

SOME_FAILED = 3
"""Exit status where some specimens could not be used; the others were."""


def _list_failed(failed: Any) -> None:
    """List the specimens that could not be used, and end with `SOME_FAILED` if there are any."""
    for row in failed.head(20).itertuples():
        typer.echo(f"{row.id}: {row.error}", err=True)
    if len(failed) > 20:
        typer.echo(f"... and {len(failed) - 20:,} more", err=True)
    if len(failed):
        raise typer.Exit(code=SOME_FAILED)


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="A checkpoint, or the folder of a run.")],
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The .parquet or .npz file to write.")],
    split: Split = None,
    photos: Photos = None,
    crop: Cropping = "none",
    save_crops: SaveCrops = None,
    slurm: SlurmOptions = None,
    jobs: Jobs = 16,
    force: Force = False,
) -> None:
    """Embed photos and barcodes; run it again to resume."""
    from projects.bioscan_clip.inference.embedding import embed_to_file
    from projects.bioscan_clip.inference.inputs import read_inputs
    from projects.bioscan_clip.inference.parts import Slurm

    table = read_inputs(inputs, split, photos)
    failed = embed_to_file(
        model, table, out, crop, Slurm.parse(slurm or [], jobs), force, save_crops
    )
    typer.echo(f"Wrote {out}: {len(table):,} specimens, {len(failed):,} with an error")
    _list_failed(failed)


@library.command("build")
def build_library(
    folder: Annotated[Path, typer.Argument(help="The library's folder.")],
    inputs: Inputs,
    model: Annotated[str, typer.Option(help="A checkpoint, or the folder of a run.")],
    calibrate_on: Annotated[
        list[str] | None,
        typer.Option(help="Specimens of known names to calibrate on, such as file.hdf5::val_seen."),
    ] = None,
    split: Split = None,
    photos: Photos = None,
    taxonomy: Taxonomy = None,
    crop: Cropping = "none",
    slurm: SlurmOptions = None,
    jobs: Jobs = 16,
    force: Force = False,
) -> None:
    """Make a library of known specimens; run it again to resume.

    Besides files of specimens it takes what is embedded already: embeddings.hdf5 of a run, the
    run's folder, or a file that `embed` has written.
    """
    from projects.bioscan_clip.inference import building
    from projects.bioscan_clip.inference.parts import Slurm

    failed = building.build_library(
        folder,
        inputs,
        model,
        force,
        split=split,
        photos=photos,
        taxonomy=taxonomy,
        crop=crop,
        slurm=Slurm.parse(slurm or [], jobs),
    )
    if calibrate_on:
        building.calibrate_library(folder, calibrate_on, model, photos=photos, crop=crop)
    building.print_library(folder)
    _list_failed(failed)


@library.command("info")
def show_library(
    folder: Annotated[Path, typer.Argument(help="The library's folder.")],
) -> None:
    """Say what a library holds, and what it is calibrated on."""
    from projects.bioscan_clip.inference.building import print_library

    print_library(folder)


@library.command("add")
def add_to_library(
    folder: Annotated[Path, typer.Argument(help="The library's folder.")],
    inputs: Inputs,
    model: ModelPath = None,
    split: Split = None,
    photos: Photos = None,
    taxonomy: Taxonomy = None,
    crop: Cropping = "none",
) -> None:
    """Add known specimens to a library."""
    from projects.bioscan_clip.inference import building

    failed = building.add_to_library(
        folder, inputs, model, split=split, photos=photos, taxonomy=taxonomy, crop=crop
    )
    building.print_library(folder)
    _list_failed(failed)


@library.command("remove")
def remove_from_library(
    folder: Annotated[Path, typer.Argument(help="The library's folder.")],
    ids: Annotated[list[str], typer.Argument(help="Sample or process ids.")],
) -> None:
    """Remove specimens from a library."""
    from projects.bioscan_clip.inference.library import ReferenceLibrary

    removed = ReferenceLibrary.open(folder).remove(ids)
    typer.echo(f"Removed {removed:,} specimens from {folder}.")


@library.command("calibrate")
def calibrate_library(
    folder: Annotated[Path, typer.Argument(help="The library's folder.")],
    labelled: Annotated[list[str], typer.Argument(help="Specimens of known names, as INPUTS.")],
    model: ModelPath = None,
    split: Split = None,
    photos: Photos = None,
    taxonomy: Taxonomy = None,
    crop: Cropping = "none",
) -> None:
    """Find out on specimens of known names how far a library's names can be trusted."""
    from projects.bioscan_clip.inference import building

    failed = building.calibrate_library(
        folder, labelled, model, split=split, photos=photos, taxonomy=taxonomy, crop=crop
    )
    building.print_library(folder)
    _list_failed(failed)


@app.command()
def identify(
    folder: Annotated[Path, typer.Argument(metavar="LIBRARY", help="The library's folder.")],
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The .csv, .tsv, .parquet or .jsonl file to write.")],
    precision: Annotated[
        float, typer.Option(help="Share of accepted names that should be right.")
    ] = 0.95,
    restrict_to: Annotated[
        str | None, typer.Option(help="order=Diptera, or a checklist: names of taxa, one a line.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=20, help="Nearest specimens to list.")] = 5,
    form: Annotated[
        Literal["table", "blast6", "sintax", "dwc"],
        typer.Option("--format", help="Columns of our own, or those of another program."),
    ] = "table",
    model: ModelPath = None,
    split: Split = None,
    photos: Photos = None,
    crop: Cropping = "none",
    save_crops: SaveCrops = None,
    force: Force = False,
) -> None:
    """Name specimens by a library, with a confidence; run it again to resume.

    The exit status is 3 if some specimens could not be used; the column `error` says why.
    """
    from projects.bioscan_clip.inference.inputs import read_inputs
    from projects.bioscan_clip.inference.naming import identify_to_file, print_summary

    table = read_inputs(inputs, split, photos)
    named = identify_to_file(
        folder,
        table,
        out,
        model=model,
        precision=precision,
        restrict_to=restrict_to,
        top_k=top_k,
        crop=crop,
        save_crops=save_crops,
        form=form,
        force=force,
    )
    print_summary(named, out)
    _list_failed(named[named["error"] != ""])


@importing.command("clibd")
def import_clibd(
    file: Annotated[Path, typer.Argument(help="CLIBD's checkpoint, such as best.pth.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    force: Force = False,
) -> None:
    """Turn a checkpoint of CLIBD into a model of this project, with the same embeddings."""
    from projects.bioscan_clip.inference import load_model

    load_model(file, device="cpu").save_pretrained(out, force=force)
    typer.echo(f"Wrote {out}")


@model.command("export")
def export_model(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, the folder of a run, or another model.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Output folders of job_type=eval, one a seed, for the card."),
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="A calibrated library of this model, for its calibration.")
    ] = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Do not merge adapters into the weights.")
    ] = False,
    adapters_only: Annotated[
        bool, typer.Option("--adapters-only", help="Leave out what training did not change.")
    ] = False,
    timm: Annotated[
        Path | None, typer.Option(help="Also write the photo encoder as timm's, to this folder.")
    ] = None,
    push_to: Annotated[
        str | None, typer.Option(help="Also upload it to owner/name on the Hugging Face Hub.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a model as a folder to publish, without a pickle and with a card."""
    from projects.bioscan_clip.inference import load_model
    from projects.bioscan_clip.inference.exporting import save_timm

    loaded = load_model(checkpoint, device="cpu")
    options: dict[str, Any] = {
        "merge": not keep_adapters,
        "adapters_only": adapters_only,
        "evaluations": evaluation or [],
        "library": library,
    }
    loaded.save_pretrained(out, repo_id=push_to, force=force, **options)
    typer.echo(f"Wrote {out}")
    if timm is not None:
        typer.echo(f"Wrote {save_timm(loaded, timm)}")
    if push_to is not None:
        typer.echo(f"Uploaded to {loaded.push_to_hub(push_to, **options)}")


@model.command("info")
def show_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A checkpoint, a folder, hf-hub:owner/name, or a file of CLIBD."
        ),
    ],
) -> None:
    """Say what a model is, without loading its weights."""
    from projects.bioscan_clip.inference.card import print_model

    print_model(source)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="LIBRARY", help="The library's folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    model: ModelPath = None,
) -> None:
    """Open a page, and an HTTP interface, that name photos and barcodes by a library."""
    try:
        from projects.bioscan_clip.inference.service.server import serve as serve_library
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "python_multipart", "uvicorn"):
            raise
        raise ValueError(
            f"`serve` needs {error.name}, which is not installed; `pip install -r "
            "requirements.txt`, or the extra `bioscan-clip[serve]`, brings it."
        ) from error
    serve_library(folder, host, port, model)


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
