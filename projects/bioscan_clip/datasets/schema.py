"""The layout of a BIOSCAN HDF5 file: one group per split, one row per specimen.

Both published files (BIOSCAN-1M, 79.7 GB, and BIOSCAN-5M, 190.4 GB) follow it.
"""

from collections.abc import Mapping
from typing import Final, Literal

RANKS: Final = ("order", "family", "genus", "species")
"""Taxonomic ranks, from the coarsest to the finest; the order of every label vector."""

NOT_CLASSIFIED: Final = b"not_classified"
"""What a file holds where a specimen's label at a rank is unknown."""

UNKNOWN_NAMES: Final = (NOT_CLASSIFIED, b"", b"nan", b"NaN")
"""Texts that name no taxon; the last two are what tables write for an empty cell."""

TEXT_LENGTH: Final = 20
"""Tokens per taxonomic name, padded or truncated."""

IMAGE: Final = "image"
IMAGE_LENGTH: Final = "image_mask"
IMAGE_FEATURES: Final = "image_features"
BARCODE: Final = "barcode"
DNA_FEATURES: Final = "dna_features"
TEXT_IDS: Final = "language_tokens_input_ids"
TEXT_TYPE_IDS: Final = "language_tokens_token_type_ids"
TEXT_MASK: Final = "language_tokens_attention_mask"
IDENTIFIERS: Final = ("sampleid", "processid", "image_file")

BIN_COLUMNS: Final = ("uri", "dna_bin")
"""Where the Barcode Index Number is: `uri` in BIOSCAN-1M, `dna_bin` in BIOSCAN-5M. Optional."""

SPLITS_1M: Final = (
    "all_keys", "seen_keys", "val_unseen_keys", "test_unseen_keys", "no_split",
    "no_split_and_seen_train", "train_seen", "single_species", "val_seen", "val_unseen",
    "test_seen", "test_unseen",
)  # fmt: skip
SPLITS_5M: Final = (
    "all_keys", "seen_keys", "unseen_keys", "no_split_and_seen_train", "val_seen", "val_unseen",
    "test_seen", "test_unseen", "other_heldout",
)  # fmt: skip

Stage = Literal["val", "test"]
Role = Literal["keys", "seen", "unseen", "tuning_seen", "tuning_unseen", "novel"]
"""What specimens do in an evaluation: queries of seen and of unseen species take the labels of
their nearest keys; thresholds are tuned on other queries than those that are scored; novel ones
are of species that no key has."""

TRAINING_SPLIT: Final = "no_split_and_seen_train"
SEEN_KEYS: Final = "seen_keys"
"""Those of the keys whose species are seen in training; the other keys are of unseen species."""

EVALUATION_SPLITS: Final[Mapping[Stage, Mapping[Role, str]]] = {
    "val": {"keys": "all_keys", "seen": "val_seen", "unseen": "val_unseen"},
    "test": {
        "keys": "all_keys",
        "seen": "test_seen",
        "unseen": "test_unseen",
        "tuning_seen": "val_seen",
        "tuning_unseen": "val_unseen",
    },
}
"""The split of each role, at the validation of each epoch and at the test of a checkpoint."""
