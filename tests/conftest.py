import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when a library is imported, so before any is

FIXTURES = Path(__file__).parent / "fixtures"
LONGEST = ("test_end_to_end.py", "test_benchmarks.py", "test_failures.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no process waits for another's in the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Numbers made by running mmlearn's own bioscan_clip project."""
    return FIXTURES / "parity"


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file in the BIOSCAN-1M schema."""
    from projects.bioscan_clip.sample.file import write_sample

    path = tmp_path_factory.mktemp("data") / "sample.hdf5"
    write_sample(path, n_species=24, n_specimens=400, seed=0)
    return path


@pytest.fixture(scope="module")
def browser():
    """A real browser, in which nothing but a test speaks to the network."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Where everything should run, a test that does not is a failure."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):  # None in a worker
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
