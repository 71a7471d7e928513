"""The card of a published model, filled from what the model, its run and its evaluations say."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.encoders.frozen import BASE_KEY
from projects.bioscan_clip.encoders.network import embedding_width
from projects.bioscan_clip.encoders.pretrained import read_configuration
from projects.bioscan_clip.scoring.neighbours import PAIRS

_TEMPLATE: Final = Path(__file__).with_name("model_card.md.j2")
_WORDS: Final = {"rgb": "photos", "dna": "DNA barcodes", "text": "taxonomic names"}
_LICENCES: Final = {"BIOSCAN-1M": "cc-by-3.0", "BIOSCAN-5M": "cc-by-3.0", "BIOSCAN-sample": "mit"}
# What a pretrained part may have seen of BIOSCAN, by a pattern of its name.
_SEEN_BEFORE: Final = {
    "bioclip": (
        "BioCLIP was pretrained on TreeOfLife, which holds photos of BIOSCAN-1M: photos of the "
        "test splits, also of species counted as unseen, may have been among them, so accuracies "
        "on BIOSCAN are not comparable with those of other encoders."
    ),
    "vit_": "timm's ViT was pretrained on ImageNet, which holds no photos of BIOSCAN.",
    "BarcodeBERT": (
        "BarcodeBERT was pretrained, without names, on barcodes of public libraries (CANADA-1.5M "
        "or BIOSCAN-5M). Barcodes of the test's species, also of those counted as unseen, may be "
        "among them."
    ),
    "bert": "BERT was pretrained on English text, which may hold names of taxa, but no specimens.",
}


def model_card(
    configuration: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    calibration: Mapping[str, Any] | None,
    name: str,
) -> str:
    """Write the card of a model as Markdown, with the metadata of the Hugging Face Hub.

    Parameters
    ----------
    configuration : mapping
        What ``config.json`` holds.
    evaluations : sequence of mapping
        What ``evaluation.json`` holds.
    calibration : mapping, optional
        What ``calibration.json`` holds.
    name : str
        What the model is called: ``owner/name``, or the folder's name.

    Returns
    -------
    str
        The card.
    """
    data = configuration.get("data") or {}
    modalities = configuration["modalities"]
    metadata = ModelCardData(
        language="en",
        license=_LICENCES.get(data.get("name", ""), "other"),
        library_name="bioscan-clip",
        pipeline_tag="feature-extraction",
        datasets=["bioscan-ml/BIOSCAN-5M"] if data.get("name") == "BIOSCAN-5M" else None,
        tags=["biodiversity", "insects", "DNA barcode", "contrastive learning", *modalities],
        model_name=name.rpartition("/")[2],
        eval_results=_eval_results(evaluations) or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(_TEMPLATE),
        name=name,
        words=_listed(modalities),
        ranks=RANKS,
        c=configuration,
        data=data,
        is_invented=data.get("name") == "BIOSCAN-sample",
        is_bioscan=data.get("name") in ("BIOSCAN-1M", "BIOSCAN-5M") or "origin" in configuration,
        origin=configuration.get("origin"),
        parts={key: describe_part(key, part) for key, part in modalities.items()},
        leakage=_leakage(modalities),
        evaluations=evaluations,
        seeds=[str(each["seed"]) for each in evaluations],
        results=_results(evaluations),
        trust=_trust(evaluations),
        calibration=calibration,
    )
    return str(card.content)


def print_model(source: str | Path) -> None:
    """Print what a model is; its weights are not loaded."""
    c = read_configuration(source)
    data, origin, trained = c.get("data"), c.get("origin"), c.get("trained")
    lines = {
        "Embeds": _listed(c["modalities"]),
        **{modality: describe_part(modality, part) for modality, part in c["modalities"].items()},
        "Dimension": embedding_width(next(iter(c["modalities"].values()))),
        "Weights": "only what was trained, on top of pretrained ones" if BASE_KEY in c else None,
        "Experiment": None if origin else f"{c['experiment']}, seed {c['seed']}",
        "Trained": trained and f"{trained['epochs']} epochs, {trained['steps']:,} steps",
        "Recipe": "; ".join(f"{k} {v}" for k, v in c.get("recipe", {}).items()) or None,
        "Data": data
        and f"{data['name']}: {data['specimens']:,} specimens of {data['split']}, {data['file']}",
        "Imported": origin and f"{origin['file']} of {origin['project']}, {origin['tuned']} tuned",
        "Written by": f"bioscan-clip {c['version']}, format {c['format_version']}",
    }
    for name, text in lines.items():
        if text is not None:
            print(f"{name + ':':12}{text}")


def _listed(modalities: Iterable[str]) -> str:
    *others, last = (_WORDS[modality] for modality in modalities)
    return f"{', '.join(others)} and {last}" if others else last


def describe_part(modality: str, part: Mapping[str, Any]) -> str:
    """Say in a few words what an encoder is and how its input is prepared."""
    encoder, lora = part["encoder"], part["lora"] or part.get("merged")
    kind = str(encoder["_target_"]).rpartition(".")[2]
    said = [f"{kind} {encoder['model_name']}" if "model_name" in encoder else kind]
    if config := encoder.get("config"):
        said.append(
            f"{config.get('num_hidden_layers', 12)} layers of {config.get('hidden_size', 768)}"
        )
    if pooling := encoder.get("pooling"):
        said.append(f"pooling {pooling}")
    if lora:
        merged = "" if part["lora"] else ", merged"
        said.append(
            f"LoRA of rank {lora.get('r', 4)} on "
            f"{', '.join(lora.get('target_modules', ['qkv']))}{merged}"
        )
    if modality == "rgb":
        prepared = part["preprocessing"]
        size, mean, std = prepared["image_size"], prepared["mean"], prepared["std"]
        said.append(f"photos of {size} x {size} pixels, mean {mean}, std {std}")
    elif modality == "dna":
        tokens = part["tokenizer"]
        said.append(
            f"{tokens['k']}-mers at stride {tokens['stride']} over {tokens['max_length']} bases"
        )
    else:
        said.append(f"names tokenized as for {part['tokenizer']['name']}")
    return "; ".join(said)


def _leakage(modalities: Mapping[str, Any]) -> list[str]:
    said = []
    for modality, part in modalities.items():
        if not part.get("pretrained", True):
            said.append(f"The encoder of {_WORDS[modality]} started from random weights.")
            continue
        encoder = part["encoder"]
        name = f"{encoder.get('model_name', '')} {encoder['_target_']} {part.get('tokenizer')}"
        known = (text for key, text in _SEEN_BEFORE.items() if key in name)
        said.append(next(known, f"What the encoder of {_WORDS[modality]} has seen is not known."))
    return said


def _results(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of a table: top-1 accuracy in percent by pair, average and split."""
    rows = []
    for query, key in PAIRS:
        for average in ("micro", "macro"):
            for split in ("seen", "unseen", "harmonic"):
                cells = [_cell(evaluations, query, key, average, split, rank) for rank in RANKS]
                if any(cells):
                    rows.append(
                        {
                            "name": f"{query} to {key}",
                            "average": average,
                            "split": split,
                            "cells": cells,
                        }
                    )
    return rows


def _cell(evaluations: Sequence[Mapping[str, Any]], *wanted: str) -> str:
    found = [
        row
        for each in evaluations
        for row in each["top1"]
        if (row["query"], row["key"], row["average"], row["split"], row["level"]) == wanted
        and row["value"] is not None
    ]
    if not found:
        return ""
    values = [100 * row["value"] for row in found]
    if len(values) > 1:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    low, high = found[0]["low"], found[0]["high"]
    interval = "" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{values[0]:.1f}{interval}"


def _trust(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of a table: how far names can be trusted, of the first evaluation."""
    found = {
        (row["query"], row["key"], row["average"], row["level"]): row["value"]
        for row in (evaluations[0]["top1"] if evaluations else ())
        if row["split"] == "all" and row["value"] is not None
    }
    return [
        {"name": f"{query} to {key}", "what": what, "cells": cells}
        for query, key in PAIRS
        for what, average in (
            ("names accepted", "coverage"),
            ("of these right", "precision"),
            ("calibration error", "ece"),
        )
        if any(cells := [_percent(found.get((query, key, average, rank))) for rank in RANKS])
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _eval_results(evaluations: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return the accuracies at the rank of species as metadata of the Hub."""
    return [
        EvalResult(
            task_type="zero-shot-classification",
            dataset_type=Path(str(each["file"])).stem,
            dataset_name=str(each["file"]),
            dataset_split=next(iter(each["splits"].get(row["split"], {row["split"]: 0}))),
            metric_type="accuracy",
            metric_name=(
                f"top-1 {row['level']}, {row['query']} to {row['key']}, {row['split']}, "
                f"{row['average']}, seed {each['seed']}"
            ),
            metric_value=row["value"],
        )
        for each in evaluations
        for row in each["top1"]
        if (row["query"], row["key"]) in PAIRS
        and row["average"] in ("micro", "macro")
        and row["split"] in ("seen", "unseen")
        and row["level"] == RANKS[-1]
        and row["value"] is not None
    ]
