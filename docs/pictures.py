"""Draw the pictures of README and docs from the output files of `make demo`."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from rich.console import Console

from projects.bioscan_clip.reports.evaluation import print_accuracy

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGE_HEAD = {"x": 0, "y": 0, "width": 1240, "height": 1380}
SPECIES, SPECIMENS, SIZE = 10, 7, (150, 112)


def draw_table() -> None:
    """Draw the accuracies as a terminal shows them."""
    console = Console(record=True, width=80, file=io.StringIO())
    saved = json.loads((ROOT / "outputs" / "demo" / "eval" / "metrics.json").read_text())
    numbers = {name.removeprefix("test/"): value for name, value in saved.items()}
    print_accuracy(numbers, console=console)
    console.save_svg(str(DOCS / "demo.svg"), title="make demo")


def draw_specimens() -> None:
    """Draw some specimens of some species, one row each."""
    with h5py.File(ROOT / "data" / "bioscan_sample.hdf5") as file:
        split = file["train_seen"]
        species = split["species"][:]
        names, counts = np.unique(species, return_counts=True)
        common = names[counts >= SPECIMENS]
        chosen = common[np.linspace(0, len(common) - 1, SPECIES).astype(int)]
        sheet = Image.new("RGB", (SPECIMENS * SIZE[0], SPECIES * SIZE[1]))
        for row, name in enumerate(chosen):
            for column, index in enumerate(np.flatnonzero(species == name)[:SPECIMENS]):
                jpeg = split["image"][index, : split["image_mask"][index]].tobytes()
                photo = Image.open(io.BytesIO(jpeg)).resize(SIZE)
                sheet.paste(photo, (column * SIZE[0], row * SIZE[1]))
    sheet.save(DOCS / "sample.jpg", quality=85)


def draw_report() -> None:
    """Draw the head of the demo's page as a browser shows it."""
    page = ROOT / "outputs" / "demo" / "eval" / "report.html"
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1240, "height": 900})
        tab.goto(page.as_uri())
        tab.wait_for_selector("#map .main-svg")
        tab.screenshot(path=DOCS / "report.png", clip=PAGE_HEAD, full_page=True)
        browser.close()


def draw_service() -> None:
    """Draw the page that names specimens, with a photo and a barcode."""
    demo = ROOT / "outputs" / "demo"
    photo = next((demo / "queries" / "photos").glob("Cebola_nupurus_*.jpg"))
    barcode = (demo / "queries" / "barcodes.fasta").read_text().split(">")[1]
    command = [Path(sys.executable).parent / "bioscan-clip", "serve", demo / "library"]
    service = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    address = service.stdout.readline().split()[-1]
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1240, "height": 1180})
        tab.goto(address)
        tab.wait_for_selector("body[data-ready]")
        tab.fill("#precision", "90")
        tab.fill("#barcodes", f">{barcode}")
        tab.click("#send")
        expect(tab.locator(".near img")).to_have_count(5)
        tab.set_input_files("#files", photo)
        expect(tab.locator(".near img")).to_have_count(10)
        tab.wait_for_load_state("networkidle")
        tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        content = tab.screenshot()
        browser.close()
    service.terminate()
    picture = Image.open(io.BytesIO(content)).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    picture.save(DOCS / "serve.png", optimize=True)


if __name__ == "__main__":
    draw_table()
    draw_specimens()
    draw_report()
    draw_service()
