import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from projects.bioscan_clip.datasets.insect import read_insect
from tests.datasets.fake_insect import fake_insect, write_hub, write_matlab, write_photos


@pytest.fixture(scope="module")
def insect():
    return fake_insect()


def variables(path):
    return {name: value for name, value in loadmat(path).items() if name[0] != "_"}


@pytest.mark.parametrize("layout", ["hub", "matlab", "matlab and photos", "matlab of 2023"])
def test_both_layouts_hold_the_same(insect, tmp_path, layout):
    if layout == "hub":
        write_hub(insect, tmp_path)
    else:
        renamed = {"val": "val_unseen_loc"} if layout == "matlab of 2023" else {}
        write_matlab(insect, tmp_path, **renamed)
    if layout == "matlab and photos":
        write_photos(insect, tmp_path)
    found = read_insect(tmp_path)
    assert list(found.ids) == insect.ids
    assert list(found.barcodes) == insect.barcodes
    np.testing.assert_array_equal(found.labels, insect.labels)
    assert set(found.splits) == set(insect.splits)
    for name, rows in insect.splits.items():
        np.testing.assert_array_equal(found.splits[name], rows)
    if found.features is None:
        read = [photo for some in found.read_photos(10) for photo in some]
        assert read == insect.photos
    else:
        np.testing.assert_array_equal(found.features, insect.features)
    assert (found.features is None) == (layout in ("hub", "matlab and photos"))


def test_an_empty_barcode_stays_in_its_row(insect, tmp_path):
    insect.barcodes[3], kept = "", insect.barcodes[3]
    for write in (write_hub, write_matlab):
        found = read_insect(write(insect, tmp_path / write.__name__))
        assert list(found.barcodes) == insect.barcodes
    insect.barcodes[3] = kept


def test_what_is_missing_or_damaged_is_named(insect, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not hold INSECT: expected INSECT_metadata"):
        read_insect(tmp_path)
    hub, matlab = write_hub(insect, tmp_path / "hub"), write_matlab(insect, tmp_path / "matlab")
    table = pd.read_csv(hub / "INSECT_metadata.csv")
    table.drop(columns="val").to_csv(hub / "INSECT_metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"INSECT_metadata\.csv lacks val\. It has: bold_ids"):
        read_insect(hub)
    table.assign(val=0).to_csv(hub / "INSECT_metadata.csv", index=False)
    with pytest.raises(ValueError, match="the split val has 0 rows"):
        read_insect(hub)
    splits = variables(matlab / "att_splits.mat")
    savemat(matlab / "att_splits.mat", splits | {"test_seen_loc": [[1], [1000]]})
    with pytest.raises(ValueError, match="63 specimens, but the split test_seen has 2 rows"):
        read_insect(matlab)
    content = variables(matlab / "res101.mat")
    savemat(matlab / "res101.mat", content | {"labels": content["labels"][1:]})
    with pytest.raises(ValueError, match="differ in their number of rows"):
        read_insect(matlab)
    (matlab / "res101.mat").write_bytes((matlab / "res101.mat").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"res101\.mat (cannot be read as a MATLAB file|lacks)"):
        read_insect(matlab)


def test_photos_in_other_files_are_not_read(insect, tmp_path):
    found = read_insect(write_hub(insect, tmp_path))
    (tmp_path / "secret").write_bytes(b"private")
    with h5py.File(tmp_path / "INSECT_images.hdf5", "r+") as file:
        del file[f"images/{insect.ids[1]}"]
        file["images"].create_dataset(
            insect.ids[1], (7,), "u1", external=[(str(tmp_path / "secret"), 0, 7)]
        )
    with pytest.raises(ValueError, match=rf"images/{insect.ids[1]} keeps its values in other file"):
        list(found.read_photos(10))
    with h5py.File(tmp_path / "INSECT_images.hdf5", "r+") as file:
        del file[f"images/{insect.ids[1]}"]
    with pytest.raises(ValueError, match=rf"images/{insect.ids[1]} cannot be opened"):
        list(found.read_photos(10))
