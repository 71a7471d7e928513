"""The page in a real browser: plots are drawn, menus work, nothing is fetched."""

from dataclasses import replace

import pytest

from projects.bioscan_clip.reports.page import write_page
from projects.bioscan_clip.reports.results import load_published

PLOTS = ("accuracy", "classes", "similarity", "map")


@pytest.fixture(scope="module")
def path(evaluation, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    about = {"experiment": "a" * 80, "file": "sample.hdf5", "checkpoint": "/x" * 60}
    published = replace(load_published(), key_specimens=len(evaluation.keys))
    write_page(evaluation, about, path, full=True, published=published)
    return path


@pytest.fixture(params=[1200, 400], ids=["desktop", "phone"])
def page(request, browser, path):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.complaints, page.fetched = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda sent: page.fetched.append(sent.url))
    page.goto(path.as_uri())
    page.wait_for_function(f"document.querySelectorAll('.main-svg').length >= {3 * len(PLOTS)}")
    yield page
    page.close()


def test_page_is_drawn_within_its_width(page, path):
    width = page.viewport_size["width"]
    for name in PLOTS:
        section = page.locator(f"#{name}")
        svg = section.locator(".main-svg").first.bounding_box()
        assert svg["height"] > 300
        assert 0.8 * width < svg["width"] < width
        menu = section.locator(".updatemenu-header .updatemenu-item-rect").first.bounding_box()
        assert menu["x"] + menu["width"] <= svg["x"] + svg["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#accuracy .scatterlayer .point").count() == 16
    assert page.complaints == []
    assert [url for url in page.fetched if not url.startswith("data:")] == [path.as_uri()]
    photos = page.locator("#gallery img")
    assert photos.count() == 12 * 7
    assert photos.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")


def test_menu_of_pairs(page, evaluation):
    section = page.locator("#accuracy")
    section.locator(".updatemenu-header").click()
    section.locator(".updatemenu-dropdown-button", has_text="barcode → barcode").first.click()
    values = section.locator(".js-plotly-plot").evaluate(
        "plot => plot._fullData.filter(one => one.visible === true).map(one => Array.from(one.y))"
    )
    numbers = evaluation.numbers()
    expected = [
        [
            100 * numbers[f"dna_to_dna/{split}/{average}/top1/{rank}"]
            for rank in ("order", "family", "genus", "species")
        ]
        for split in ("seen", "unseen")
        for average in ("micro", "macro")
    ]
    for drawn, wanted in zip(values, expected, strict=True):
        assert drawn == pytest.approx(wanted, abs=1e-2)


def test_menu_of_the_map(page):
    section = page.locator("#map")
    section.locator(".updatemenu-header").click()
    section.locator(".updatemenu-dropdown-button", has_text="by modality").click()
    page.wait_for_function("document.querySelectorAll('#map .legendtext').length == 3")
    names = section.locator(".legendtext").all_text_contents()
    assert names == ["photo", "barcode", "name"]


def test_ranks_of_confused_taxa(page):
    section = page.locator("#confusions")
    assert section.locator(".of-species").is_visible()
    assert not section.locator(".of-genus").is_visible()
    section.locator("label[for=rank-genus]").click()
    assert section.locator(".of-genus").is_visible()
    assert not section.locator(".of-species").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_have_the_colours_of_the_page(browser, path, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(path.as_uri())
    page.wait_for_selector("#mistakes .bartext-inside")
    colour = "one => getComputedStyle(one)"
    ink = page.locator("body").evaluate(f"{colour}.color")
    assert page.locator("#accuracy .xtick text").first.evaluate(f"{colour}.fill") == ink
    assert page.locator("#mistakes .legendtext").first.evaluate(f"{colour}.fill") == ink
    right = page.locator("#mistakes .bartext-inside").first  # white on dark blue, by day and night
    assert right.evaluate(f"{colour}.fill") == "rgb(255, 255, 255)"
    assert (ink == "rgb(31, 41, 51)") is (scheme == "light")
    page.close()
