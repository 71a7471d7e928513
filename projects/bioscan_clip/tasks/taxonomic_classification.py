"""Nearest-neighbour taxonomy as an evaluation task of mmlearn."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from mmlearn.tasks.hooks import EvaluationHooks

from projects.bioscan_clip.reports.console import print_accuracy
from projects.bioscan_clip.reports.saved_embeddings import save_embeddings
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.write import Level, as_level, write_report
from projects.bioscan_clip.scoring.evaluation import Evaluation, evaluate
from projects.bioscan_clip.scoring.restriction import Restriction, checked
from projects.bioscan_clip.tasks.collection import EmbeddingCollection
from projects.bioscan_clip.tasks.evaluated_splits import Origin, by_role, collect_sets, data_of

Stage = Literal["val", "test"]


class TaxonomicClassification(EvaluationHooks):
    """Classify query specimens by their nearest key specimens.

    Runs on validation and test data that hold a split of keys and splits of queries of seen and
    unseen species. Results (see :func:`~projects.bioscan_clip.scoring.evaluation.evaluate`)
    are logged as ``val/...`` and ``test/...`` to every logger and saved as ``metrics.json``; a test
    also prints a table and leaves a report. What the epoch's data do not allow to compute (keys
    missing because of ``limit_val_batches``, say) is left out with a warning.

    Parameters
    ----------
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.
    keys : sequence of str, default=("all_keys",)
        Splits whose specimens are keys.
    seen : sequence of str, default=("test_seen", "val_seen")
        Splits of specimens of species seen in training. The first that is among the epoch's data
        holds the queries; the second settles thresholds (see `docs/evaluation.md`).
    unseen : sequence of str, default=("test_unseen", "val_unseen")
        The same for other species.
    report : {"off", "light", "full"}, default="full"
        What a test leaves besides ``metrics.json``: nothing; tables and a page; or also embeddings,
        and a page with a map of them and photos.
    validation_report : {"off", "light", "full"}, default="off"
        The same for each validation epoch, which overwrites the one before.
    search : {"exact", "approximate"}, default="exact"
        Whether all keys are compared, or FAISS finds most of the nearest sooner.
    restrict_to : mapping or str or pathlib.Path, optional
        Taxa by rank (``{order: Diptera}``), or a file with a checklist of names, which predictions
        are limited to.
    output_dir : str or pathlib.Path, optional
        Folder for what is left; the trainer's ``default_root_dir`` if None.
    """

    def __init__(
        self,
        top_k: Sequence[int] = (1, 3, 5),
        keys: Sequence[str] = ("all_keys",),
        seen: Sequence[str] = ("test_seen", "val_seen"),
        unseen: Sequence[str] = ("test_unseen", "val_unseen"),
        report: Level | bool = "full",
        validation_report: Level | bool = "off",
        search: Literal["exact", "approximate"] = "exact",
        restrict_to: Restriction | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.top_k = tuple(top_k)
        self.roles = {"keys": tuple(keys), "seen": tuple(seen), "unseen": tuple(unseen)}
        self.report: Mapping[Stage, Level] = {
            "test": as_level(report),
            "val": as_level(validation_report),
        }
        self.search: Final = search
        self.restrict_to = None if restrict_to is None else checked(restrict_to)
        self.output_dir = output_dir
        self._collection = EmbeddingCollection()

    def on_evaluation_epoch_start(self, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch, and keep Lightning from printing every number in a long table."""
        self._collection = EmbeddingCollection()
        if pl_module.trainer.testing:
            pl_module.trainer.test_loop.verbose = False

    def evaluation_step(
        self, pl_module: pl.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Encode a batch and keep its embeddings."""
        if not pl_module.trainer.sanity_checking:
            self._collection.add(batch, pl_module(batch))

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
        roles = self._roles(pl_module, stage)
        named = trainer.is_global_zero and self.report[stage] != "off"
        sets = collect_sets(roles, stage, named)
        if "keys" not in sets.embeddings or not sets.queries:
            return None
        if self.restrict_to is not None:
            sets = sets.restricted_to(self.restrict_to)

        evaluation = evaluate(
            sets.embeddings["keys"],
            sets.queries,
            self.top_k,
            self.search,
            tuning=sets.tuning,
            seen_key=sets.seen_key,
        )
        metrics = {f"{stage}/{name}": value for name, value in evaluation.numbers().items()}
        # The numbers are the same everywhere; without `sync_dist`, Lightning warns about each.
        pl_module.log_dict(metrics, sync_dist=True)
        if trainer.is_global_zero:
            about = {
                **data_of(roles),
                "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
                "seed": int(os.environ["PL_GLOBAL_SEED"])
                if "PL_GLOBAL_SEED" in os.environ
                else None,
                "search": self.search,
                "restrict_to": self.restrict_to,
            }
            self._save(trainer, evaluation, sets, about)
        return metrics

    def _roles(self, pl_module: pl.LightningModule, stage: Stage) -> dict[str, list[Origin]]:
        """Return the epoch's specimens by role; warn of what is missing."""
        trainer = pl_module.trainer
        loader = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
        collected = self._collection.by_dataset(pl_module.device)
        self._collection = EmbeddingCollection()
        origins = [(loader.dataset.datasets[index], seen) for index, seen in collected.items()]
        roles = by_role(origins, self.roles)
        for role, splits in self.roles.items():
            if role not in roles:
                held = ", ".join(dataset.split for dataset, _ in origins) or "none"
                rank_zero_warn(
                    f"Taxonomic classification saw no {role} specimens (splits "
                    f"{', '.join(splits)}; this epoch's data held {held}). What needs them is "
                    "left out."
                )
        return roles

    def _save(
        self,
        trainer: pl.Trainer,
        evaluation: Evaluation,
        sets: EvaluatedSets,
        about: Mapping[str, Any],
    ) -> None:
        """Leave files in the output folder; after a test, print the usual numbers."""
        folder = Path(self.output_dir or trainer.default_root_dir)
        level = self.report[sets.stage]
        files = write_report(evaluation, sets, about, folder, level, trainer.loggers)
        if level == "full":
            files.append(save_embeddings(sets, folder))
        if sets.stage == "test":
            sizes = {
                role: len(sets.embeddings[role]) for role in self.roles if role in sets.embeddings
            }
            print_accuracy(evaluation.numbers(), sizes)
            rank_zero_info(f"Saved in {folder}: {', '.join(path.name for path in files)}")
