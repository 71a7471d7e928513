import io
import logging
import pickle
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from mmlearn.datasets.core.combined_dataset import CombinedDataset
from mmlearn.datasets.core.data_collator import DefaultDataCollator
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.io import decode_image

from projects.bioscan_clip.datasets.hdf5 import BadRowError
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.taxonomy import taxon_code
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.datasets.transforms import evaluation_view, finish, finish_batch

ROWS, SPLIT = 6, "val_seen"
BARCODES = [b"ACGTA" * (20 + row) for row in range(ROWS)]
SPECIES = [b"Aedes vexans", b"not_classified", b"Aedes cinereus", b"Culex pipiens", b"", b"x y"]


def jpeg(row: int) -> bytes:
    pixels = np.random.default_rng(row).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((300, 260)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    """A file in the schema, written here by hand."""
    path = tmp_path / "specimens.hdf5"
    jpegs = [jpeg(row) for row in range(ROWS)]
    padded = np.zeros((ROWS, max(map(len, jpegs)) + 50), dtype=np.uint8)
    for row, data in enumerate(jpegs):
        padded[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    tokens = np.arange(ROWS * 20).reshape(ROWS, 20)
    with h5py.File(path, "w") as file:
        group = file.create_group(SPLIT)
        group["image"] = padded
        group["image_mask"] = np.array([len(data) for data in jpegs])
        group["barcode"] = np.array(BARCODES)
        for rank in ("order", "family", "genus"):
            group[rank] = np.array([b"same"] * ROWS)
        group["species"] = np.array(SPECIES)
        group["language_tokens_input_ids"] = tokens
        group["language_tokens_attention_mask"] = (tokens % 3 > 0).astype(np.int32)
        group["dna_bin"] = np.array([b"BOLD:AAA0001", b"BOLD:AAA0002"] * 3)
        group["image_features"] = np.random.default_rng(0).normal(size=(ROWS, 512))
        group["dna_features"] = np.random.default_rng(1).normal(size=(ROWS, 768))
    return path


def change(path, column, value) -> None:
    with h5py.File(path, "r+") as file:
        del file[SPLIT][column]
        if value is not None:
            file[SPLIT][column] = value


def spoil(path, row: int) -> None:
    """Cut a photo short, as a broken download would."""
    with h5py.File(path, "r+") as file:
        file[SPLIT]["image_mask"][row] //= 2


def test_example_holds_the_row(path):
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training=False)
    example = dataset[2]
    photo = decode_image(torch.frombuffer(bytearray(jpeg(2)), dtype=torch.uint8))
    assert len(dataset) == ROWS
    assert example["example_index"] == 2
    assert example["rgb"].equal(finish(evaluation_view(photo, 224)[None])[0])
    assert example["dna"].equal(KmerTokenizer()(BARCODES[2]))
    assert example["text"].tolist() == list(range(40, 60))
    assert example["text"].dtype == example["text_attention_mask"].dtype == torch.int64
    assert example["text_attention_mask"].tolist() == [int(t % 3 > 0) for t in range(40, 60)]
    assert example["labels"].tolist() == [taxon_code(b"same")] * 3 + [taxon_code(SPECIES[2])]
    assert example["bin"] == taxon_code(b"BOLD:AAA0001")
    assert example["bad_image"] == 0
    assert [int(dataset[row]["labels"][3]) < 0 for row in range(ROWS)] == [0, 1, 0, 0, 1, 0]


def test_no_strings_ride_in_a_batch(path):
    loader = DataLoader(
        CombinedDataset([BIOSCANInsectDataset(path, SPLIT)]),
        batch_size=4,
        collate_fn=DefaultDataCollator(),
    )
    batch = next(iter(loader))
    ids = batch.pop("example_ids")
    assert all(isinstance(value, torch.Tensor) for value in [*batch.values(), *ids.values()])
    assert batch["rgb"].shape == (4, 3, 224, 224)
    assert ids["rgb"].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_features_instead_of_pixels_and_bases(path):
    dataset = BIOSCANInsectDataset(
        path, SPLIT, image_input_type="feature", dna_input_type="feature"
    )
    with h5py.File(path) as file:
        rgb, dna = file[SPLIT]["image_features"][3], file[SPLIT]["dna_features"][3]
    assert dataset[3]["rgb"].numpy() == pytest.approx(rgb, abs=1e-6)
    assert dataset[3]["dna"].numpy() == pytest.approx(dna, abs=1e-6)
    assert dataset[3]["rgb"].dtype == dataset[3]["dna"].dtype == torch.float32


def test_file_without_bins(path):
    change(path, "dna_bin", None)
    assert BIOSCANInsectDataset(path, SPLIT)[0]["bin"] == -1


def test_training_augments_and_evaluation_does_not(path):
    training = BIOSCANInsectDataset(path, SPLIT, image_size=64)
    evaluation = BIOSCANInsectDataset(path, SPLIT, image_size=64, for_training=False)
    assert not training[0]["rgb"].equal(training[0]["rgb"])
    assert evaluation[0]["rgb"].equal(evaluation[0]["rgb"])
    assert training[0]["rgb"].shape == evaluation[0]["rgb"].shape == (3, 64, 64)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_open_the_file_themselves(path, context, workers):
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training=False, image_size=32)
    expected = torch.stack([dataset[row]["rgb"] for row in range(ROWS)])  # opens it here first
    loader = DataLoader(
        CombinedDataset([dataset]),
        batch_size=1,
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=DefaultDataCollator(),
    )
    assert torch.cat([batch["rgb"] for batch in loader]).equal(expected)


def test_no_handle_is_open_before_the_first_read(path):
    dataset = BIOSCANInsectDataset(path, SPLIT)
    assert not dataset._split._columns
    dataset[0]
    assert dataset._split._columns
    assert not pickle.loads(pickle.dumps(dataset))._split._columns


def test_undecodable_photo_ends_an_evaluation_with_its_place(path):
    spoil(path, 4)
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training=False)
    with pytest.raises(
        BadRowError, match=rf"{path}, split {SPLIT}, row 4: the photo does not decode"
    ):
        dataset[4]


def test_undecodable_photo_is_skipped_and_counted_in_training(path, caplog):
    spoil(path, 4)
    spoil(path, 5)
    dataset = BIOSCANInsectDataset(path, SPLIT)
    with caplog.at_level(logging.WARNING):
        example = dataset[4]
    assert example["example_index"] == 0  # the next specimen that is whole
    assert example["bad_image"] == 1
    assert example["dna"].equal(KmerTokenizer()(BARCODES[0]))
    assert "row 4" in caplog.text
    assert "row 5" in caplog.text


def test_on_bad_image_overrules(path):
    spoil(path, 4)
    with pytest.raises(BadRowError):
        BIOSCANInsectDataset(path, SPLIT, on_bad_image="raise")[4]
    assert BIOSCANInsectDataset(path, SPLIT, for_training=False, on_bad_image="skip")[4][
        "bad_image"
    ]


def test_a_file_of_bad_photos_ends(path):
    for row in range(ROWS):
        spoil(path, row)
    with pytest.raises(BadRowError, match="the file is damaged"):
        BIOSCANInsectDataset(path, SPLIT)[0]


@pytest.mark.parametrize("length", [0, -1, 10**6])
def test_mask_beyond_the_row(path, length):
    with h5py.File(path, "r+") as file:
        file[SPLIT]["image_mask"][1] = length
    dataset = BIOSCANInsectDataset(path, SPLIT, on_bad_image="raise")
    with pytest.raises(BadRowError, match=rf"row 1: `image_mask` says {length} bytes"):
        dataset[1]


def replace_photo(path, row: int, data: bytes) -> None:
    with h5py.File(path, "r+") as file:
        padded = file[SPLIT]["image"][:]
        wide = np.zeros((ROWS, max(padded.shape[1], len(data))), dtype=np.uint8)
        wide[:, : padded.shape[1]] = padded
        wide[row, : len(data)] = np.frombuffer(data, dtype=np.uint8)
        del file[SPLIT]["image"]
        file[SPLIT]["image"] = wide
        file[SPLIT]["image_mask"][row] = len(data)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation() -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (lambda: encoded(Image.new("RGB", (65500, 1)), "JPEG"), "65500 x 1 pixels"),
        (lambda: encoded(Image.new("1", (20000, 20000)), "PNG"), "more than 178,956,970 pixels"),
        (lambda: encoded(Image.new("1", (15000, 12000)), "PNG"), "more than 178,956,970 pixels"),
        (animation, "no JPEG or PNG file"),
        (lambda: b"<html>", "no JPEG or PNG file"),
    ],
)
@pytest.mark.parametrize("for_training", [True, False])
def test_photo_that_would_break_a_worker_is_a_bad_one(path, caplog, photo, reason, for_training):
    """Without these limits, the first takes 14 GB for the resized photo."""
    replace_photo(path, 2, photo())
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training, on_bad_image="raise")
    tracemalloc.start()
    with pytest.raises(BadRowError, match=rf"{path}, split {SPLIT}, row 2: .*{reason}"):
        dataset[2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    skipping = BIOSCANInsectDataset(path, SPLIT, for_training, on_bad_image="skip")
    assert skipping[2]["example_index"] == 3
    assert "row 2" in caplog.text


def test_photo_of_16_bits_equals_one_of_8(path):
    """PyTorch would keep the lower eight bits of each."""
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    examples = []
    for pixels in (grey, grey.astype(np.uint16) * 257):
        replace_photo(path, 1, encoded(Image.fromarray(pixels), "PNG"))
        examples.append(BIOSCANInsectDataset(path, SPLIT, for_training=False)[1]["rgb"])
    assert examples[0].equal(examples[1])


@pytest.mark.parametrize("column", ["image_features", "dna_features"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_named(path, column, value):
    with h5py.File(path, "r+") as file:
        file[SPLIT][column][4, 17] = value
    dataset = BIOSCANInsectDataset(path, SPLIT, True, "feature", "feature")
    with pytest.raises(BadRowError, match=rf"split {SPLIT}, row 4: `{column}` holds a number that"):
        dataset.read_batch([2, 4, 1], seed=(0,))
    assert len(dataset.read_batch([2, 3], seed=(0,))["rgb"]) == 2


def test_labels_that_are_nan_are_unknown(path):
    change(path, "genus", np.array([b"nan"] * ROWS))
    change(path, "species", np.full(ROWS, np.nan))
    assert BIOSCANInsectDataset(path, SPLIT)[0]["labels"].tolist() == [taxon_code(b"same")] * 2 + [
        -1,
        -1,
    ]


def test_labels_that_are_numbers_are_refused(path):
    change(path, "species", np.arange(ROWS))
    with pytest.raises(ValueError, match=r"val_seen/species holds int64, but should hold names"):
        BIOSCANInsectDataset(path, SPLIT)


def test_column_of_another_shape(path):
    change(path, "image_mask", np.ones((ROWS, 2), dtype=np.int64))
    with pytest.raises(ValueError, match=r"`image_mask` should be an array of shape \(N,\)"):
        BIOSCANInsectDataset(path, SPLIT)
    change(path, "image_mask", None)
    with h5py.File(path, "r+") as file:
        file[SPLIT].create_group("image_mask")
    with pytest.raises(ValueError, match=r"`image_mask` should be an array .* is <HDF5 group"):
        BIOSCANInsectDataset(path, SPLIT)


@pytest.mark.parametrize("size", [1, -3])
def test_photos_too_small_for_an_encoder(path, size):
    with pytest.raises(ValueError, match=rf"`image_size` must be at least 16, but is {size}"):
        BIOSCANInsectDataset(path, SPLIT, image_size=size)


def rechunk(path) -> None:
    with h5py.File(path, "r+") as file:
        photos = file[SPLIT]["image"][:]
        del file[SPLIT]["image"]
        file[SPLIT].create_dataset("image", data=photos, chunks=(ROWS, 100))


def test_expensive_chunks_are_named_once_in_training(path, caplog):
    BIOSCANInsectDataset(path, SPLIT)[0]
    assert not caplog.text
    rechunk(path)
    BIOSCANInsectDataset(path, SPLIT, for_training=False)[0]
    assert not caplog.text
    dataset = BIOSCANInsectDataset(path, SPLIT)
    dataset[0]
    assert len(caplog.records) == 1
    assert f"bioscan-clip data repack {path}" in caplog.text


def test_batch_equals_its_specimens(path):
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training=False, image_size=32)
    rows = [4, 0, 1, 2, 4]
    batch = finish_batch(dataset.read_batch(rows, seed=(0,)))
    for place, row in enumerate(rows):
        for key, value in dataset[row].items():
            assert batch[key][place].equal(torch.as_tensor(value)), key


def test_augmentation_depends_on_seed_and_row_alone(path):
    dataset = BIOSCANInsectDataset(path, SPLIT, image_size=32)
    first = dataset.read_batch([0, 1, 2, 3], seed=(7, 1))
    other = dataset.read_batch([3, 1], seed=(7, 1))
    assert other["rgb"].equal(first["rgb"][[3, 1]])
    assert other["rgb_pose"].equal(first["rgb_pose"][[3, 1]])
    assert not dataset.read_batch([3, 1], seed=(7, 2))["rgb"].equal(other["rgb"])


def test_barcode_augmentation_depends_on_seed_and_row_alone(path):
    plain = BIOSCANInsectDataset(path, SPLIT, image_size=32)
    dataset = BIOSCANInsectDataset(path, SPLIT, image_size=32, barcode_augmentation=True)
    epochs = [dataset.read_batch(range(ROWS), seed=(0, epoch)) for epoch in range(20)]
    again = dataset.read_batch([4, 1], seed=(0, 3))
    assert again["dna"].equal(epochs[3]["dna"][[4, 1]])
    assert again["rgb"].equal(plain.read_batch([4, 1], seed=(0, 3))["rgb"])
    whole = plain.read_batch(range(ROWS), seed=(0, 0))["dna"]
    same = torch.stack([(epoch["dna"] == whole).all(dim=1) for epoch in epochs]).float()
    assert 0.35 < same.mean() < 0.65  # half are left as they are


def test_a_specimen_is_corrupted_alike_in_any_batch(path):
    dataset = BIOSCANInsectDataset(path, SPLIT, for_training=False, image_size=32)
    whole = dataset.read_batch(range(ROWS), seed=(0,))["dna"]
    corrupted = dataset.read_barcodes(np.arange(ROWS), "bases_10")
    assert dataset.read_barcodes(np.array([4, 1]), "bases_10").equal(corrupted[[4, 1]])
    assert not corrupted.equal(whole)


@pytest.mark.parametrize("options", [{"for_training": False}, {"dna_input_type": "feature"}])
def test_barcode_augmentation_without_barcodes_to_train_on(path, options):
    with pytest.raises(ValueError, match="`barcode_augmentation` is for training on barcodes"):
        BIOSCANInsectDataset(path, SPLIT, barcode_augmentation=True, **options)


def test_opening_a_million_rows_is_quick_and_small(tmp_path):
    """Under 60 MB; the second is left to benchmarks/opening.py, since machines differ."""
    path, rows = tmp_path / "million.hdf5", 1_000_000
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group(SPLIT)
        for rank, taxa in (("order", 20), ("family", 600), ("genus", 3000), ("species", 9000)):
            names = np.array([b"%s number %d" % (rank.encode(), taxon) for taxon in range(taxa)])
            group[rank] = names[rng.integers(taxa, size=rows)]
        group["uri"] = group["species"][:]
        group.create_dataset("image", (rows, 30_000), dtype=np.uint8)  # takes no room on disk
        group["image_mask"] = rng.integers(30_000, size=rows)
        group.create_dataset("barcode", (rows,), dtype="S660")
        for column in ("language_tokens_input_ids", "language_tokens_attention_mask"):
            group.create_dataset(column, (rows, 20), dtype=np.int64)
    tracemalloc.start()
    dataset = BIOSCANInsectDataset(path, SPLIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == rows
    assert peak < 60e6


@pytest.mark.parametrize("given", [None, ""])
def test_no_file_given(given):
    with pytest.raises(ValueError, match="set BIOSCAN_1M_HDF5 to its path"):
        BIOSCANInsectDataset(given, SPLIT, path_variable="BIOSCAN_1M_HDF5")


def test_folder_given(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder: name the HDF5 file in it"):
        BIOSCANInsectDataset(tmp_path, SPLIT)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data file .*none\.hdf5"):
        BIOSCANInsectDataset(tmp_path / "none.hdf5", SPLIT)


def test_not_hdf5(tmp_path):
    (tmp_path / "page.hdf5").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.hdf5 cannot be read as HDF5.*incomplete"):
        BIOSCANInsectDataset(tmp_path / "page.hdf5", SPLIT)


def test_no_such_split(path):
    with pytest.raises(ValueError, match=r"no split 'test_seen'\. It has: val_seen"):
        BIOSCANInsectDataset(path, "test_seen")


def test_split_that_is_an_array(path):
    with h5py.File(path, "r+") as file:
        file["odd"] = np.arange(3)
    with pytest.raises(ValueError, match="split odd is an array, not a group of columns"):
        BIOSCANInsectDataset(path, "odd")


def test_missing_column(path):
    change(path, "barcode", None)
    with pytest.raises(ValueError, match="split val_seen lacks barcode"):
        BIOSCANInsectDataset(path, SPLIT)


def test_split_without_rows(path):
    with h5py.File(path, "r+") as file:
        for name in list(file[SPLIT]):
            empty = file[SPLIT][name][:0]
            del file[SPLIT][name]
            file[SPLIT][name] = empty
    with pytest.raises(ValueError, match="split val_seen holds no specimens"):
        BIOSCANInsectDataset(path, SPLIT)


def test_rows_of_unequal_number(path):
    change(path, "barcode", np.array(BARCODES[:-1]))
    with pytest.raises(ValueError, match=r"differ in their number of rows .*barcode 5"):
        BIOSCANInsectDataset(path, SPLIT)


@pytest.mark.parametrize("name", ["image_input_type", "dna_input_type", "on_bad_image"])
def test_unknown_choice(path, name):
    with pytest.raises(ValueError, match=f"`{name}` must be one of .* but is 'pixels'"):
        BIOSCANInsectDataset(path, SPLIT, **{name: "pixels"})
