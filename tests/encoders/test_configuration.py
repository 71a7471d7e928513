import h5py
import pytest

from projects.bioscan_clip.encoders.configuration import learn_from_data


@pytest.fixture
def learnt_from(sample_file, tmp_path):
    def learn(damage):
        path = tmp_path / "data.hdf5"
        path.write_bytes(sample_file.read_bytes())
        with h5py.File(path, "r+") as file:
            damage(file["train_seen"])
        modalities = {"rgb": {}, "dna": {}}
        dataset = {"path_to_hdf5_file": path, "split": "train_seen"}
        learn_from_data({"modalities": modalities}, dataset)
        return modalities

    return learn


def test_a_photo_that_training_skips_is_not_in_the_way_of_a_checkpoint(learnt_from):
    def damage(split):
        split["image"][0] = 0

    whole, damaged = learnt_from(lambda split: None), learnt_from(damage)
    assert damaged["rgb"]["crop_margin"] == pytest.approx(whole["rgb"]["crop_margin"], abs=0.1)
    assert damaged["dna"] == whole["dna"]


def test_training_on_features_needs_neither_photos_nor_barcodes_nor_ids(learnt_from):
    def damage(split):
        del split["image"], split["image_mask"], split["barcode"], split["sampleid"]

    assert learnt_from(damage) == {"rgb": {}, "dna": {}}
