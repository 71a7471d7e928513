"""Nearest-neighbour taxonomy as an evaluation task of mmlearn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from mmlearn.datasets.core import Modalities
from mmlearn.datasets.core.modalities import Modality
from mmlearn.tasks.hooks import EvaluationHooks

from projects.bioscan_clip.datasets.barcodes import CORRUPTIONS
from projects.bioscan_clip.datasets.correction import KmerCorrection
from projects.bioscan_clip.datasets.schema import EVALUATION_SPLITS, Role, Stage
from projects.bioscan_clip.datasets.transforms import flips_and_turns
from projects.bioscan_clip.encoders.batches import in_eights
from projects.bioscan_clip.encoders.configuration import CONFIGURATION_KEY
from projects.bioscan_clip.encoders.pretrained import is_model, read_configuration
from projects.bioscan_clip.reports.evaluation import (
    Level,
    as_level,
    evaluate_and_report,
    headline,
)
from projects.bioscan_clip.reports.results import QUERY_OPTIONS, read_config
from projects.bioscan_clip.reports.saved_embeddings import save_embeddings
from projects.bioscan_clip.scoring.evaluation import Search, check_options
from projects.bioscan_clip.scoring.restriction import Restriction, checked
from projects.bioscan_clip.scoring.specimens import Specimens
from projects.bioscan_clip.tasks.collection import EmbeddingCollection, by_role, described

_RGB: Final = Modalities.get_modality("rgb")
_DNA: Final = Modalities.get_modality("dna")
_BARCODES_AT_ONCE: Final = 400
_TEST: Final = EVALUATION_SPLITS["test"]


class TaxonomicClassification(EvaluationHooks):
    """Classify query specimens by their nearest key specimens.

    Runs on validation and test data that hold a split of keys and splits of queries of seen and
    unseen species. Results (see :func:`~projects.bioscan_clip.scoring.evaluation.evaluate`) are
    saved as ``metrics.json``; those that papers report, and those that a callback monitors, are
    logged as ``val/...`` and ``test/...`` to every logger; a test also prints a table and writes a
    report. What the epoch's data do not allow to compute (queries missing because of
    ``limit_val_batches``, say) is left out with a warning.

    Parameters
    ----------
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.
    keys : str or sequence of str, default=("all_keys",)
        Splits whose specimens are keys.
    seen : str or sequence of str, default=("test_seen", "val_seen")
        Splits of specimens of species seen in training. The first that is among the epoch's data
        holds the queries; thresholds are tuned on the second (see `docs/evaluation.md`).
    unseen : str or sequence of str, default=("test_unseen", "val_unseen")
        The same for other species.
    novel : str or sequence of str, default=("other_heldout",)
        Splits of specimens whose species no key has, which are used where they are among the data.
    report : {"off", "light", "full"}, default="full"
        What a test writes besides ``metrics.json``: nothing; tables and a page; or also embeddings,
        and a page with a map of them and photos.
    validation_report : {"off", "light", "full"}, default="off"
        The same for each validation epoch, which overwrites the one before.
    search : {"exact", "approximate"}, default="exact"
        Whether all keys are compared, or FAISS finds most of the nearest sooner.
    restrict_to : mapping or str or pathlib.Path, optional
        Taxa by rank (``{order: Diptera}``), or a file with a checklist of names, which keys and
        queries are limited to.
    linear_head : bool, optional
        Whether to fit a linear classifier of seen species; None fits one where that takes minutes.
    corruption : str or sequence of str, default=()
        Damages to query barcodes that a test is repeated with: names of
        :data:`~projects.bioscan_clip.datasets.barcodes.CORRUPTIONS`, or ``all``.
    correct_barcodes : bool, default=False
        Whether a test corrects query barcodes, damaged or not, by those of the keys; see
        :class:`~projects.bioscan_clip.datasets.correction.KmerCorrection`.
    test_time_views : bool, default=False
        Whether a test embeds a photo in its 8 flips and quarter turns, which are averaged.
    output_dir : str or pathlib.Path, optional
        Folder of the output files; the trainer's ``default_root_dir`` if None.

    Raises
    ------
    ValueError, FileNotFoundError
        If an option cannot be understood.
    """

    def __init__(
        self,
        top_k: Sequence[int] = (1, 3, 5),
        keys: str | Sequence[str] = (_TEST["keys"],),
        seen: str | Sequence[str] = (_TEST["seen"], _TEST["tuning_seen"]),
        unseen: str | Sequence[str] = (_TEST["unseen"], _TEST["tuning_unseen"]),
        novel: str | Sequence[str] = ("other_heldout",),
        report: Level | bool = "full",
        validation_report: Level | bool = "off",
        search: Search = "exact",
        restrict_to: Restriction | None = None,
        linear_head: bool | None = None,
        corruption: str | Sequence[str] = (),
        correct_barcodes: bool = False,
        test_time_views: bool = False,
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_options(top_k, search)
        self.top_k = tuple(top_k)
        self.splits = {
            role: _names(role, names)
            for role, names in {
                "keys": keys,
                "seen": seen,
                "unseen": unseen,
                "novel": novel,
            }.items()
        }
        self.report: Mapping[Stage, Level] = {
            "test": as_level(report),
            "val": as_level(validation_report),
        }
        self.search: Search = search
        self.restrict_to = None if restrict_to is None else checked(restrict_to)
        self.linear_head = linear_head
        self.corruption = _corruptions(corruption)
        self.correct_barcodes = correct_barcodes
        self.test_time_views = test_time_views
        self.output_dir = output_dir
        self._collection = EmbeddingCollection()

    def on_evaluation_epoch_start(self, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch, and keep Lightning from printing every number in a long table.

        Raises
        ------
        ValueError
            If none of the epoch's data are keys, or none are queries, or features stand for
            barcodes that are to be damaged or corrected, or for photos that are to be turned.
        """
        self._collection = EmbeddingCollection()
        if pl_module.trainer.testing:
            pl_module.trainer.test_loop.verbose = False
        datasets = _datasets(pl_module.trainer)
        changed = self.corruption or self.correct_barcodes
        if changed and not all(dataset.has_barcodes for dataset in datasets):
            raise ValueError(
                "Barcodes cannot be damaged or corrected where features stand for them: leave out "
                'the task\'s `corruption` and `correct_barcodes`, or set dna_input_type="sequence".'
            )
        if self.test_time_views and not all(dataset.has_photos for dataset in datasets):
            raise ValueError(
                "There are no photos to turn where features stand for them: leave out the task's "
                '`test_time_views`, or set image_input_type="image".'
            )
        held = [dataset.split for dataset in datasets]
        for role, wanted in {
            "keys": self.splits["keys"],
            "queries": self.splits["seen"] + self.splits["unseen"],
        }.items():
            if not set(wanted) & set(held):
                raise ValueError(
                    f"Taxonomic classification finds no {role}: none of the splits "
                    f"{', '.join(wanted)} is among the data, which are {', '.join(held)}. Set "
                    "datasets.{val,test}.*.split, or this task's keys, seen and unseen."
                )

    def evaluation_step(
        self, pl_module: pl.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Encode a batch and keep its embeddings."""
        if not pl_module.trainer.sanity_checking:
            outputs = pl_module(batch)
            if self.test_time_views and pl_module.trainer.testing and _RGB.embedding in outputs:
                outputs[_RGB.embedding] = _over_views(pl_module, batch[_RGB.name])
            self._collection.add(batch, outputs)

    def on_evaluation_epoch_end(self, pl_module: pl.LightningModule) -> Mapping[str, float] | None:
        """Score, log and save.

        Returns
        -------
        mapping of str to float or None
            What was logged; None after a sanity check or where there were no keys or no queries.
        """
        trainer = pl_module.trainer
        if trainer.sanity_checking:
            return None
        stage: Stage = "test" if trainer.testing else "val"
        folder = Path(self.output_dir or trainer.default_root_dir)
        report = self.report[stage]
        writes = trainer.is_global_zero and report != "off"
        sets, about = self._sets(pl_module, named=writes)
        if "keys" not in sets or not {"seen", "unseen"} & set(sets):
            return None
        if trainer.is_global_zero and report == "full":  # first, as scoring may fail
            rank_zero_info(f"Saved embeddings: {save_embeddings(sets, stage, folder)}")
        if writes:
            about |= _training_of(trainer.ckpt_path, folder)
            is_untrained = stage == "test" and not trainer.ckpt_path
            about["has_seen_bioscan"] = any(
                getattr(encoder, "has_seen_bioscan", False)
                for encoder in pl_module.encoders.values()
            )
            for option in QUERY_OPTIONS:
                about[option] = stage == "test" and getattr(self, option)
            about["untrained"] = is_untrained and getattr(pl_module, "evaluate_untrained", False)
        metrics = evaluate_and_report(
            sets,
            stage,
            folder if trainer.is_global_zero else None,
            about=about,
            report=report,
            top_k=self.top_k,
            search=self.search,
            restrict_to=self.restrict_to,
            linear_head=self.linear_head,
            loggers=[
                logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)
            ],
            show=stage == "test",
        )
        monitored = {getattr(callback, "monitor", None) for callback in trainer.callbacks}
        logged = {name: value for name, value in metrics.items() if name in monitored}
        logged |= headline(metrics)
        # The numbers are the same everywhere; without `sync_dist`, Lightning warns about each.
        pl_module.log_dict(logged, sync_dist=True)
        return logged

    def _sets(
        self, pl_module: pl.LightningModule, named: bool
    ) -> tuple[dict[Role, Specimens], dict[str, Any]]:
        """Return the epoch's specimens by role, and the keys' file; warn of what is missing."""
        datasets = dict(enumerate(_datasets(pl_module.trainer)))
        collected = self._collection.by_dataset(pl_module.device)
        self._collection = EmbeddingCollection()
        roles = by_role({place: datasets[place] for place in collected}, self.splits)
        for role, splits in self.splits.items():
            if role not in roles and role != "novel":  # few data have novel ones
                held = ", ".join(datasets[place].split for place in collected) or "none"
                rank_zero_warn(
                    f"Taxonomic classification saw no {role} specimens (splits "
                    f"{', '.join(splits)}; this epoch's data held {held}). What needs them is "
                    "left out."
                )
        sets = {
            role: Specimens.concatenate(
                [
                    described(specimens, datasets[place], rows, named)
                    for place in places
                    for specimens, rows in [collected[place]]
                ]
            )
            for role, places in roles.items()
        }
        if pl_module.trainer.testing and all(each.dna is not None for each in sets.values()):
            sources = {
                role: [(datasets[place], collected[place][1].numpy()) for place in places]
                for role, places in roles.items()
            }
            self._embed_barcodes_again(pl_module, sets, sources)
        file = getattr(datasets[roles["keys"][0]], "path", None) if "keys" in roles else None
        data = {"file": file.name, "file_size": file.stat().st_size} if file else {}
        return sets, data

    def _embed_barcodes_again(
        self,
        pl_module: pl.LightningModule,
        sets: dict[Role, Specimens],
        sources: Mapping[Role, Sequence[tuple[Any, npt.NDArray[np.int64]]]],
    ) -> None:
        """Embed query barcodes corrected and damaged, if so chosen; every process embeds all."""
        correction = None
        if self.correct_barcodes and "keys" in sources:
            tokenizer = sources["keys"][0][0].tokenizer
            known = _barcodes(sources["keys"]).to(pl_module.device)
            correction = KmerCorrection(tokenizer, known)

        def embedded(role: Role, corruption: str | None = None) -> torch.Tensor:
            tokens = _barcodes(sources[role], corruption).to(pl_module.device)
            batches = (correction(tokens) if correction else tokens).split(_BARCODES_AT_ONCE)
            with pl_module.trainer.precision_plugin.forward_context():
                parts = [_embed(pl_module, _DNA, each) for each in batches]
            return torch.cat(parts).float()

        for role in sources:
            if correction and role != "keys":
                sets[role] = replace(sets[role], dna=embedded(role))
            if self.corruption and role in ("seen", "unseen"):
                damaged = {name: embedded(role, name) for name in self.corruption}
                sets[role] = replace(sets[role], corrupted=damaged)


def _datasets(trainer: pl.Trainer) -> Sequence[Any]:
    """Return the datasets of the evaluation that is under way."""
    loader = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    datasets: Sequence[Any] = loader.dataset.datasets
    return datasets


def _barcodes(
    sources: Sequence[tuple[Any, npt.NDArray[np.int64]]], corruption: str | None = None
) -> torch.Tensor:
    """Read tokens (N, T) of the barcodes of rows of datasets."""
    return torch.cat([dataset.read_barcodes(rows, corruption) for dataset, rows in sources])


def _over_views(pl_module: pl.LightningModule, photos: torch.Tensor) -> torch.Tensor:
    views = [_embed(pl_module, _RGB, view) for view in flips_and_turns(photos)]
    return torch.stack(views).mean(dim=0)


def _embed(pl_module: pl.LightningModule, modality: Modality, values: torch.Tensor) -> torch.Tensor:
    batch = in_eights({modality.name: values})
    embedded: torch.Tensor = pl_module.encode(batch, modality, normalize=True)
    return embedded[: len(values)]


def _corruptions(names: str | Sequence[str]) -> tuple[str, ...]:
    listed = (names,) if isinstance(names, str) else tuple(names)
    chosen = tuple(CORRUPTIONS) if listed == ("all",) else listed
    if not set(chosen) <= set(CORRUPTIONS):
        raise ValueError(
            f"`corruption` must be all, or some of {', '.join(CORRUPTIONS)}, but is {names!r}."
        )
    return chosen


def _names(role: str, names: str | Sequence[str]) -> tuple[str, ...]:
    listed = (names,) if isinstance(names, str) else tuple(names)
    if not listed or not all(isinstance(name, str) and name for name in listed):
        raise ValueError(f"`{role}` must name one split or more, but is {names!r}.")
    return listed


def _training_of(checkpoint: str | Path | None, folder: Path) -> dict[str, Any]:
    """Say which training the weights are of, as the checkpoint or its run's folder tells.

    Parameters
    ----------
    checkpoint : str or pathlib.Path or None
        ``<run>/checkpoints/best.ckpt``; None while training, in `folder`.
    folder : pathlib.Path
        The run's own output folder.

    Returns
    -------
    dict
        ``checkpoint``, ``experiment`` and ``seed``; None where unknown.
    """
    told: Mapping[str, Any] = {}
    if checkpoint is not None and is_model(checkpoint):
        told = read_configuration(checkpoint)
    elif checkpoint is not None:
        folder = Path(checkpoint).parent.parent
        try:
            values = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            told = values.get(CONFIGURATION_KEY) or {}
        except (OSError, RuntimeError, ValueError, UnpicklingError):
            pass  # Lightning has read it, so that all is well but the wish to know its name
    if not told:
        config = read_config(folder)
        told = {"experiment": config.get("experiment_name"), "seed": config.get("seed")}
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "experiment": told.get("experiment"),
        "seed": told.get("seed"),
    }
