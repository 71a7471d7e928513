import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from projects.bioscan_clip.sample.photos import draw_photo
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy
from projects.bioscan_clip.sample.traits import evolve_traits

SPECIMENS = 12


@pytest.fixture(scope="module")
def tree():
    """A taxonomy with every order, and the traits of its species."""
    rng = np.random.default_rng(0)
    taxonomy = grow_taxonomy(300, rng)
    return taxonomy, evolve_traits(taxonomy.names[0], taxonomy.parents, rng)


@pytest.fixture(scope="module")
def photos(tree) -> list[bytes]:
    return [draw_photo(looks, (0, number)) for number, looks in enumerate(tree[1][::3])]


def test_photos_are_256_pixels_on_the_short_side(photos):
    images = [Image.open(BytesIO(photo)) for photo in photos]
    assert {(image.format, image.mode) for image in images} == {("JPEG", "RGB")}
    assert {min(image.size) for image in images} == {256}
    assert len({image.size for image in images}) > 3


def test_file_sizes_are_those_of_real_photos(photos):
    sizes = np.array([len(photo) for photo in photos])
    assert np.mean((sizes > 9_000) & (sizes < 26_000)) > 0.95


def test_a_seed_gives_the_same_bytes(tree):
    looks = tree[1][0]
    assert draw_photo(looks, (0, 1)) == draw_photo(looks, (0, 1))
    assert draw_photo(looks, (0, 1)) != draw_photo(looks, (0, 2))


def test_background_is_pale_and_the_insect_is_not(photos):
    contrasts = []
    for photo in photos:
        grey = np.asarray(Image.open(BytesIO(photo)).convert("L"), dtype=float)
        border = np.concatenate([grey[:8].ravel(), grey[-8:].ravel()])
        centre = grey[grey.shape[0] // 2 - 40 :, grey.shape[1] // 2 - 40 :][:80, :80]
        contrasts.append(np.median(border) - np.percentile(centre, 10))
        assert np.median(border) > 120
    assert np.mean(np.array(contrasts) > 25) > 0.95


def test_colours_tell_species_of_different_genera_apart(tree):
    """Nearest neighbours by colour histogram, which neither pose nor place changes."""
    taxonomy, traits = tree
    species = np.unique(taxonomy.parents[2], return_index=True)[1][::6]
    histograms, labels = [], []
    for one in species:
        for specimen in range(SPECIMENS):
            photo = Image.open(BytesIO(draw_photo(traits[one], (int(one), specimen))))
            pixels = np.asarray(photo.resize((64, 64), Image.Resampling.BOX)) // 43
            codes = pixels.reshape(-1, 3) @ np.array([36, 6, 1])
            histograms.append(np.sqrt(np.bincount(codes, minlength=216)))
            labels.append(one)
    similarity = np.array(histograms) @ np.array(histograms).T
    np.fill_diagonal(similarity, -1)
    right = np.array(labels)[similarity.argmax(axis=1)] == np.array(labels)
    assert 4 / len(species) < right.mean() < 0.98  # far above chance, and not trivial


def test_workers_import_neither_torch_nor_mmlearn():
    code = (
        "import sys, projects.bioscan_clip.sample.photos;"
        "sys.exit(int(bool({'torch', 'mmlearn.tasks', 'h5py'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
