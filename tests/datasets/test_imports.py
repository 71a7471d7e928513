import subprocess
import sys

import pytest

from projects.bioscan_clip import datasets


def test_what_users_ask_for_is_exported():
    from projects.bioscan_clip.datasets import BIOSCANInsectDataset, KmerTokenizer, SpecimenLoader

    homes = [thing.__module__ for thing in (BIOSCANInsectDataset, KmerTokenizer, SpecimenLoader)]
    assert homes == [f"{datasets.__name__}.{name}" for name in ("specimens", "tokenizer", "loader")]
    with pytest.raises(AttributeError, match="Nothing"):
        _ = datasets.Nothing


@pytest.mark.parametrize("module", ["schema", "hdf5", "taxonomy", "tokenizer"])
def test_light_modules_do_not_import_mmlearn(module):
    """They are used by every command; torch alone is what the tokenizer returns."""
    code = (
        f"import sys, projects.bioscan_clip.datasets.{module};"
        "heavy = {'mmlearn.datasets', 'lightning', 'torchvision', 'transformers'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
