import importlib.metadata
import io

import h5py
import pytest
import torch
from rich.console import Console

from projects.bioscan_clip import doctor
from projects.bioscan_clip.doctor import Finding, examine, print_findings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for variable in ("BIOSCAN_1M_HDF5", "BIOSCAN_5M_HDF5", "BARCODEBERT_5MER"):
        monkeypatch.delenv(variable, raising=False)


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_all_is_well_without_an_experiment():
    findings = by_subject(examine(None))
    assert findings["Python"].status == "ok"
    assert findings["Packages"].status == "ok"
    assert findings["Config package"].status == "ok"
    assert findings["BARCODEBERT_5MER"].status == "note"


def test_sample_experiment_can_start(sample_file, monkeypatch):
    monkeypatch.setenv("BIOSCAN_SAMPLE_HDF5", str(sample_file))
    findings = by_subject(examine("bioscan_sample"))
    assert not [finding for finding in findings.values() if finding.status == "missing"]
    with h5py.File(sample_file) as file:
        specimens = len(file["test_unseen"]["image"])
    assert findings["Data, test unseen"].detail == f"test_unseen: {specimens:,} specimens"


def test_unset_variables_of_an_experiment_are_missing():
    findings = by_subject(examine("bioscan_1m"))
    assert findings["Data, train"].status == "missing"
    remedy = findings["Data, train"].remedy
    assert remedy.startswith("wget -c https://")
    assert remedy.endswith(
        "/BioScan_data_in_splits.hdf5 && export BIOSCAN_1M_HDF5=$PWD/BioScan_data_in_splits.hdf5"
    )
    assert findings["BarcodeBERT weights"].status == "missing"
    assert "export BARCODEBERT_5MER=" in findings["BarcodeBERT weights"].remedy


def test_weights_are_opened_and_the_hub_is_looked_at(sample_file, tmp_path, monkeypatch):
    torch.save(
        {"bert.embeddings.word_embeddings.weight": torch.zeros(2)}, tmp_path / "model_41.pth"
    )
    monkeypatch.setenv("BIOSCAN_1M_HDF5", str(sample_file))
    monkeypatch.setenv("BARCODEBERT_5MER", str(tmp_path / "model_41.pth"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    findings = by_subject(examine("bioscan_1m"))
    assert findings["Data, train"].status == "ok"
    assert findings["BarcodeBERT weights"].status == "ok"
    assert findings["Photo encoder"].status == "missing"
    assert findings["Photo encoder"].remedy.endswith(
        "hf download timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    )
    assert findings["Text encoder"].remedy.endswith("hf download prajjwal1/bert-small")


def test_a_file_without_the_splits_is_missing(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file.create_group("train")
    monkeypatch.setenv("BIOSCAN_SAMPLE_HDF5", str(tmp_path / "other.hdf5"))
    finding = by_subject(examine("bioscan_sample"))["Data, train"]
    assert finding.status == "missing"
    assert "has no split 'no_split_and_seen_train'. It has: train" in finding.detail
    assert finding.remedy == f"bioscan-clip data verify {tmp_path / 'other.hdf5'}"


def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("BIOSCAN_SAMPLE_HDF5", "")
    finding = by_subject(examine("bioscan_sample"))["Data, train"]
    assert finding.status == "missing"
    assert "set BIOSCAN_SAMPLE_HDF5 to its path" in finding.detail
    assert finding.remedy == "bioscan-clip data sample --out data/bioscan_sample.hdf5"


def test_missing_and_old_packages_are_named(monkeypatch):
    def version(name: str) -> str:
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError
        return "0.0.1" if name == "peft" else original(name)

    original = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = by_subject(examine("bioscan_1m"))
    assert findings["timm"].detail == "not installed"
    assert findings["timm"].remedy.startswith("pip install 'timm")
    assert findings["peft"].detail.startswith("0.0.1, but ")
    assert "Data, train" not in findings  # packages come first


def test_config_package_that_cannot_be_imported(monkeypatch):
    def broken(name: str):
        raise ImportError("cannot import name 'HybridCache'")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = by_subject(examine(None))["Config package"]
    assert finding.status == "missing"
    assert "HybridCache" in finding.detail


def test_unknown_experiment():
    finding = by_subject(examine("bioscan_2m"))["Experiment bioscan_2m"]
    assert finding.status == "missing"
    assert "bioscan_1m" in finding.remedy


def test_findings_are_printed_with_what_to_do():
    output = io.StringIO()
    findings = [Finding("timm", "missing", "not [installed]", "pip install timm")]
    print_findings(findings, Console(file=output, width=80))
    assert "missing" in output.getvalue()
    assert "not [installed]" in output.getvalue()
    assert "- timm: pip install timm" in output.getvalue()
