import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra_zen import store


@pytest.fixture(autouse=True, scope="module")
def _hydra():
    store.add_to_hydra_store(overwrite_ok=True)
    with initialize_config_module("mmlearn.conf", version_base=None):
        yield
    GlobalHydra.instance().clear()
