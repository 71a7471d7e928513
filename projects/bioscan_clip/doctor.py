"""Find out before a run, rather than in it, what is missing."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_DISTRIBUTION = "bioscan-clip"
_CONFIGS = "projects.bioscan_clip.configs"
_SFU = "https://aspis.cmpt.sfu.ca/projects/bioscan"  # the addresses that CLIBD's README gives
_DOWNLOADS = {
    "BIOSCAN_1M_HDF5": f"{_SFU}/clip_project/data/version_0.2.1/BioScan_data_in_splits.hdf5",
    "BIOSCAN_5M_HDF5": f"{_SFU}/BIOSCAN_CLIP_for_downloading/BIOSCAN_5M.hdf5",
    "BARCODEBERT_5MER": f"{_SFU}/clip_project/ckpt/BarcodeBERT/model_41.pth",
}
_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


@dataclass
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    subject : str
        What was looked at.
    status : {"ok", "note", "missing"}
        ``missing`` keeps an experiment from starting, ``note`` does not.
    detail : str
        What was found.
    remedy : str
        What to do about it; empty if nothing.
    """

    subject: str
    status: Literal["ok", "note", "missing"]
    detail: str
    remedy: str = ""


def examine(experiment: str | None) -> list[Finding]:
    """Look at Python, packages, the GPU and environment variables, then at an experiment's needs.

    Parameters
    ----------
    experiment : str, optional
        Name of an experiment, whose data files and pretrained weights are opened as a run would.

    Returns
    -------
    list of Finding
        In the order in which to fix what is missing.
    """
    findings = [_python(), *_packages()]
    if all(finding.status != "missing" for finding in findings):
        findings += [_config_package(), _gpu()]
    findings += _variables()
    if experiment is not None and all(finding.status != "missing" for finding in findings):
        findings += _experiment(experiment)
    return findings


def print_findings(findings: list[Finding], console: Console | None = None) -> None:
    """Print findings as a table, and what to do below it."""
    console = console or Console()
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        style = _STYLES[finding.status]
        table.add_row(
            f"[{style}]{finding.status}[/]", escape(finding.subject), escape(finding.detail)
        )
    console.print(table)
    remedies = [finding for finding in findings if finding.remedy]
    if remedies:
        console.print("\n[bold]What to do[/]")
    for finding in remedies:
        console.print(f"- {escape(finding.subject)}: {escape(finding.remedy)}")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "use Python 3.11 or 3.12, which mmlearn supports")


def _packages() -> list[Finding]:
    try:
        requirements = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the project's folder"
        return [Finding(_DISTRIBUTION, "missing", "not installed", remedy)]
    needed = [
        requirement for requirement in map(Requirement, requirements) if not requirement.marker
    ]
    problems = [problem for requirement in needed if (problem := _package_problem(requirement))]
    return problems or [Finding("Packages", "ok", f"{len(needed)} as required")]


def _package_problem(requirement: Requirement) -> Finding | None:
    remedy = f"pip install '{requirement}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "missing", "not installed", remedy)
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return Finding(
        requirement.name, "missing", f"{version}, but {requirement.specifier} is needed", remedy
    )


def _config_package() -> Finding:
    try:
        importlib.import_module(_CONFIGS)
    except Exception as error:  # whatever it is, Hydra would only say "not available"
        detail = f"cannot be imported: {type(error).__name__}: {error}"
        return Finding("Config package", "missing", detail, "pip install -r requirements.txt")
    return Finding("Config package", "ok", f"pkg://{_CONFIGS}")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "note", "none that PyTorch can use; the CPU does for the sample only")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names))


def _variables() -> Iterator[Finding]:
    for variable in _DOWNLOADS:
        value = os.environ.get(variable)
        if not value:
            yield Finding(variable, "note", "not set; bioscan_1m and bioscan_5m need it")
        elif Path(value).is_file():
            yield Finding(variable, "ok", value)
        else:
            yield Finding(variable, "note", f"{value}: no such file", _get(variable))


def _get(variable: str) -> str:
    """Return the commands that get a file and say where it is."""
    if variable not in _DOWNLOADS:
        return "bioscan-clip data sample --out data/bioscan_sample.hdf5"
    address = _DOWNLOADS[variable]
    return f"wget -c {address} && export {variable}=$PWD/{Path(address).name}"


def _experiment(name: str) -> list[Finding]:
    try:
        config = _compose(name)
    except Exception as error:
        listed = "bioscan_1m, bioscan_5m and bioscan_sample are this project's experiments"
        return [Finding(f"Experiment {name}", "missing", str(error).splitlines()[0], listed)]
    return [*_data(config), *_weights(config.task.encoders)]


def _compose(experiment: str) -> Any:
    import mmlearn.cli.run  # noqa: F401  fills the store
    from hydra import compose, initialize_config_module
    from hydra_zen import store

    store.add_to_hydra_store(overwrite_ok=True)
    with initialize_config_module("mmlearn.conf", version_base=None):
        return compose("base_config", overrides=[f"+experiment={experiment}"])


def _data(config: Any) -> Iterator[Finding]:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    evaluated = {
        f"{stage} {part}": config.datasets[stage][part]
        for stage in ("val", "test")
        for part in config.datasets[stage]
    }
    for role, dataset in {"train": config.datasets.train, **evaluated}.items():
        subject = f"Data, {role.removesuffix('_split')}"
        try:
            specimens = len(instantiate(dataset))
        except InstantiationException as error:
            remedy = _get(dataset.path_variable)
            if Path(dataset.path_to_hdf5_file or "").is_file():  # but it does not do
                remedy = f"bioscan-clip data verify {dataset.path_to_hdf5_file}"
            yield Finding(subject, "missing", str(error.__cause__ or error), remedy)
            return  # the other splits would say the same
        yield Finding(subject, "ok", f"{dataset.split}: {specimens:,} specimens")


def _weights(encoders: Any) -> Iterator[Finding]:
    dna, rgb, text = encoders.dna, encoders.rgb, encoders.text
    if dna is not None and dna.pretrained_checkpoint_path is not None:
        yield _barcode_bert(dna.pretrained_checkpoint_path)
    if rgb is not None and rgb.pretrained:
        yield _vit(rgb)
    if text is not None and text.pretrained and not Path(text.model_name_or_path).is_dir():
        yield _on_hub("Text encoder", text.model_name_or_path, "config.json")


def _barcode_bert(path: str) -> Finding:
    from projects.bioscan_clip.encoders.weights import load_weights

    try:
        load_weights(path)
    except (ValueError, OSError) as error:
        return Finding("BarcodeBERT weights", "missing", str(error), _get("BARCODEBERT_5MER"))
    return Finding("BarcodeBERT weights", "ok", path)


def _vit(encoder: Mapping[str, Any]) -> Finding:
    import timm

    overlay = (encoder["model_kwargs"] or {}).get("pretrained_cfg_overlay") or {}
    file = overlay.get("file")
    if file is None:
        config = timm.get_pretrained_cfg(encoder["model_name"])
        return _on_hub("Photo encoder", config.hf_hub_id, "model.safetensors")
    if Path(file).is_file():
        return Finding("Photo encoder", "ok", file)
    return Finding("Photo encoder", "missing", f"{file}: no such file", "correct the path")


def _on_hub(subject: str, repository: str, file: str) -> Finding:
    """Say whether weights are in the Hugging Face cache, or else can be fetched."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, file), str):
        return Finding(subject, "ok", f"{repository}, in the Hugging Face cache")
    if not constants.HF_HUB_OFFLINE:
        try:
            get_hf_file_metadata(hf_hub_url(repository, file), timeout=5)
        except Exception:  # any failure to reach the hub means the same to the user
            pass
        else:
            return Finding(subject, "ok", f"{repository}, will be downloaded")
    remedy = f"where there is internet: hf download {repository}"
    return Finding(
        subject, "missing", f"{repository} is not in the cache nor to be reached", remedy
    )
