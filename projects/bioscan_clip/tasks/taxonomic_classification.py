"""Nearest-neighbour taxonomy as an evaluation task of mmlearn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from mmlearn.tasks.hooks import EvaluationHooks

from projects.bioscan_clip.tasks.collection import EmbeddingCollection
from projects.bioscan_clip.tasks.scoring.embeddings import Embeddings
from projects.bioscan_clip.tasks.scoring.evaluation import evaluate_embeddings
from projects.bioscan_clip.tasks.report import print_accuracy, save_metrics


class TaxonomicClassification(EvaluationHooks):
    """Classify query specimens by their nearest key specimens.

    Runs on validation and test data that hold a split of keys and splits of queries of seen and
    unseen species. Results (see :func:`evaluate_embeddings`) are logged as ``val/...`` and
    ``test/...`` to every logger and saved as ``metrics.json``; a table is printed after a test.
    What the epoch's data do not allow to compute (keys missing because of ``limit_val_batches``,
    say) is left out with a warning.

    Parameters
    ----------
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.
    keys : sequence of str, default=("all_keys",)
        Splits whose specimens are keys.
    seen : sequence of str, default=("val_seen", "test_seen")
        Splits whose specimens are queries of species seen in training.
    unseen : sequence of str, default=("val_unseen", "test_unseen")
        Splits whose specimens are queries of other species.
    output_dir : str or pathlib.Path, optional
        Folder for ``metrics.json``; the trainer's ``default_root_dir`` if None.
    """

    def __init__(
        self,
        top_k: Sequence[int] = (1, 3, 5),
        keys: Sequence[str] = ("all_keys",),
        seen: Sequence[str] = ("val_seen", "test_seen"),
        unseen: Sequence[str] = ("val_unseen", "test_unseen"),
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.top_k = tuple(top_k)
        self.roles = {"keys": tuple(keys), "seen": tuple(seen), "unseen": tuple(unseen)}
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
        stage: Literal["val", "test"] = "test" if trainer.testing else "val"
        sets = self._by_role(_split_names(trainer, stage), pl_module.device)
        self._collection = EmbeddingCollection()
        queries: dict[str, Embeddings] = {
            role: sets[role] for role in ("seen", "unseen") if role in sets
        }
        if "keys" not in sets or not queries:
            return None

        results = evaluate_embeddings(sets["keys"], queries, self.top_k)
        metrics = {f"{stage}/{name}": value for name, value in results.items()}
        # The numbers are the same everywhere; without `sync_dist`, Lightning warns about each.
        pl_module.log_dict(metrics, sync_dist=True)
        if trainer.is_global_zero:
            path = save_metrics(metrics, Path(self.output_dir or trainer.default_root_dir))
            if stage == "test":
                print_accuracy(results, sizes={role: len(sets[role].labels) for role in sets})
                rank_zero_info(f"Saved {len(metrics)} metrics to {path}")
        return metrics

    def _by_role(self, split_names: Sequence[str], device: Any) -> dict[str, Embeddings]:
        """Return the specimens of each role that the epoch saw; warn of what is missing."""
        by_dataset = self._collection.by_dataset(device)
        sets = {}
        for role, splits in self.roles.items():
            found = [values for index, values in by_dataset.items() if split_names[index] in splits]
            if found:
                sets[role] = Embeddings.concatenate(found)
            else:
                held = ", ".join(split_names[index] for index in by_dataset) or "none"
                rank_zero_warn(
                    f"Taxonomic classification saw no {role} specimens (splits "
                    f"{', '.join(splits)}; this epoch's data held {held}). What needs them is "
                    "left out."
                )
        return sets


def _split_names(trainer: pl.Trainer, stage: Literal["val", "test"]) -> list[str]:
    """Return the split of each dataset in the epoch's combined dataset."""
    loader = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
    return [dataset.split for dataset in loader.dataset.datasets]
