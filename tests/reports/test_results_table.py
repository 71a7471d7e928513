"""The table of runs as text: parsed back, and compared with the numbers it was made from."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.reports.results import collect_runs, summarize
from projects.bioscan_clip.reports.results_table import print_summary, render, tidy
from tests.reports.fake_runs import (
    CELLS,
    SEEDS,
    SPLITS_1M,
    accuracies,
    write_1m,
    write_run,
    write_sweep,
)

COLUMNS = [(average, split) for average in ("micro", "macro") for split in ("seen", "unseen")]


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def summary(sweep):
    return summarize(collect_runs([sweep]))


def markdown_rows(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "---" not in row]


def latex_rows(text: str) -> list[list[str]]:
    rows = [line.removesuffix(r"\\") for line in text.splitlines() if line.endswith(r"\\")]
    for command, character in {r"$\pm$": "±", "$-$": "-", r"\%": "%"}.items():
        rows = [row.replace(command, character) for row in rows]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def rich_rows(text: str) -> list[list[str]]:
    """Return a heading in one line, which has two, and rows; two blanks separate cells."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    first, second, *rows = [cells for cells in lines if len(cells) > 3]
    heading = second[:2] + [" ".join(pair) for pair in zip(first, second[2:], strict=True)]
    return [heading, *(["", *row] if len(row) == 5 else row for row in rows)]


PARSERS = {"markdown": markdown_rows, "latex": latex_rows, "rich": rich_rows}


@pytest.mark.parametrize("form", PARSERS)
def test_table_read_back(summary, form):
    heading, *rows = PARSERS[form](render(summary, form))
    assert heading[2:] == [f"{average}, {split}" for average, split in COLUMNS]
    assert len(rows) == 4 * (1 + len(summary.sources))
    runs = [accuracies(seed) for seed in SEEDS]
    rank = ""
    for first, name, *cells in rows:
        rank = first or rank
        for (average, split), cell in zip(COLUMNS, cells, strict=True):
            key = f"test/rgb_to_dna/{split}/{average}/top1/{rank}"
            values = 100 * np.array([run[key] for run in runs])
            if name == "these runs":
                assert cell == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
            else:
                (source,) = [source for source in summary.sources if source.name == name]
                published, difference = cell.rstrip(")").split(" (")
                assert float(published) == source.percent[rank, average, split]
                assert difference[0] in "+-"
                assert abs(float(difference) - (values.mean() - float(published))) < 0.0500001


def test_csv_read_back_in_full_precision(summary):
    table = pd.read_csv(io.StringIO(render(summary, "csv")), float_precision="round_trip")
    assert len(table) == len(CELLS) * 4
    by_cell = table.groupby(["level", "average", "split"])
    for cell, (mean, std, n) in zip(CELLS, summary.figures.to_numpy(), strict=True):
        rows = by_cell.get_group(cell)
        assert list(rows["source"]) == ["runs", *(source.name for source in summary.sources)]
        assert (rows.iloc[0][["percent", "std", "n"]] == [mean, std, n]).all()
        np.testing.assert_array_equal(rows["difference"][1:], mean - rows["percent"][1:])
    assert set(table["query"] + table["key"] + table["k"].astype(str)) == {"rgbdna1"}


def test_one_run_in_csv_has_no_deviation(tmp_path):
    table = tidy(summarize(collect_runs([write_1m(tmp_path / "run", 0)])))
    assert table["std"].isna().all()


def test_latex_escapes_what_it_must(tmp_path):
    run = write_1m(tmp_path / "run", 0, experiment=r"50%_of{a}&b\c#$~^")
    text = render(summarize(collect_runs([run])), "latex")
    expected = r"50\%\_of\{a\}\&b\textbackslash{}c\#\$\textasciitilde{}\^{}"
    assert f"this run: {expected}, " in text
    for part in (r"\toprule", r"\bottomrule", r"\begin{tabular}{llrrrr}", r"\end{table}"):
        assert text.count(part) == 1
    assert text.count("{") == text.count("}")


def test_markdown_escapes_what_it_must(tmp_path):
    name = "a|b*c_d`e`[f](g)<img src=x onerror=alert(1)>&amp;#h\\"
    run = write_1m(tmp_path / "run", 0, experiment=name)
    text = render(summarize(collect_runs([run])), "markdown")
    expected = r"a\|b\*c\_d\`e\`\[f\](g)\<img src=x onerror=alert(1)\>\&amp;\#h\\"
    assert f"- this run: {expected}, " in text


@pytest.mark.parametrize("form", ["markdown", "latex", "rich"])
def test_what_differs_and_the_sources_stand_below(summary, form):
    text = " ".join(render(summary, form).replace("\\", "").split())
    assert "Other splits: these runs are scored on test_seen and test_unseen;" in text
    assert "seeds 0, 42, 1337" in text
    assert "https://arxiv.org/abs/2405.17537" in text


def test_a_number_that_no_run_has(tmp_path):
    metrics = accuracies(0)
    del metrics["test/rgb_to_dna/unseen/macro/top1/genus"]
    run = write_run(tmp_path / "run", metrics, splits=SPLITS_1M)
    rows = markdown_rows(render(summarize(collect_runs([run])), "markdown"))
    genus = next(index for index, row in enumerate(rows) if row[0] == "genus")
    assert rows[genus][-1] == "-"
    assert rows[genus + 1][-1] == "11.7"  # the paper's, without a difference


def printed(summary, width: int = 100) -> str:
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=width))
    return text.getvalue()


def test_one_run_shows_the_usual_pairs_and_compares_only_the_published_data(tmp_path):
    published = printed(summarize(collect_runs([write_1m(tmp_path / "1m", 0)])))
    splits = SPLITS_1M | {"keys": {"all_keys": 300}}
    sample = printed(summarize(collect_runs([write_1m(tmp_path / "s", 0, splits=splits)])))
    for text in (published, sample):
        assert "│ rgb to dna   │ micro   │ seen   │" in text
    assert "mmlearn qv" in published
    assert "mmlearn" not in sample
    assert "Not compared with published figures, which are of other data." in sample
    assert "micro, seen" not in sample


def test_table_fits_a_terminal_of_80_columns(tmp_path):
    for seed in range(5):  # figures of the widest kind
        metrics = {name: float(seed < 2) for name in accuracies(0)}
        write_run(tmp_path / str(seed), metrics, splits=SPLITS_1M, seed=seed)
    text = printed(summarize(collect_runs([tmp_path])), width=80)
    assert "40.0 ± 54.8" in text
    assert "98.3 (-58.3)" in text
    assert "…" not in text


def invoke(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["results", *map(str, arguments)], env={"COLUMNS": "100"})
    return result.exit_code, result.stdout, result.stderr


def test_command(sweep, tmp_path):
    code, output, _ = invoke(sweep)
    assert (code, len(rich_rows(output))) == (0, 17)
    for form in ("rich", "markdown", "latex", "csv"):
        out = tmp_path / "out" / form
        code, output, _ = invoke(sweep / "0", sweep / "1", "--format", form, "--out", out)
        assert (code, len(rich_rows(output))) == (0, 17)
        assert output.replace("\n", "").endswith(f"Wrote {out}")
        assert out.read_text() == render(summarize(collect_runs([sweep / "0", sweep / "1"])), form)


def test_a_file_is_replaced_by_force_only(sweep, tmp_path):
    out = tmp_path / "table.md"
    out.write_text("mine")
    code, output, error = invoke(sweep, "--out", out)
    assert (code, output) == (1, "")
    assert "exists. Use --force" in error.replace("\n", " ")
    assert out.read_text() == "mine"
    assert invoke(sweep, "--out", out, "--force", "--format", "markdown")[0] == 0
    assert out.read_text().startswith("**Top-1")


def test_csv_is_alone_on_standard_output(sweep):
    (sweep / "3" / ".hydra").mkdir(parents=True)
    (sweep / "3" / ".hydra" / "config.yaml").write_text("seed: 3")
    code, output, notes = invoke(sweep, "--format", "csv")
    assert code == 0
    assert len(pd.read_csv(io.StringIO(output))) == 4 * len(CELLS)
    assert f"Left out: {sweep / '3'} has no metrics.json" in notes
    assert "Other splits" in notes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{0}", "--query", "wing"], "No run has accuracies of wing to dna"),
        (["{0}/none"], "There is no folder"),
        (["{0}", "--out", "{0}/0/metrics.json/table"], "metrics.json is not a folder"),
        (["{0}/none", "--out", "{0}"], "is a folder"),
    ],
)
def test_bad_input_is_one_line(sweep, arguments, words):
    code, output, error = invoke(*(argument.format(sweep) for argument in arguments))
    assert (code, output, error.count("\n")) == (1, "", 1)
    assert error.startswith("Error: ")
    assert words in error
