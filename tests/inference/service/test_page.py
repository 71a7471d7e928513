"""The page in a real browser."""

import csv
import io
from types import SimpleNamespace

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.inference.service.conftest import EVIL
from tests.inference.service.plain import png, specimen

expect.set_options(timeout=30_000)  # milliseconds; tests may share a core with others
COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture
def open_page(browser, address):
    """Return a function that opens the page; what it complained of or fetched is checked."""
    pages = []

    def opened(width=1200, **context):
        page = browser.new_context(viewport={"width": width, "height": 800}, **context).new_page()
        seen = SimpleNamespace(page=page, complaints=[], elsewhere=[])
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
        page.on(
            "console",
            lambda message: (
                message.type == "error"
                and "status of 422" not in message.text  # which is shown as a sentence
                and seen.complaints.append(message.text)
            ),
        )

        def check(route):
            if route.request.url.startswith((address, "blob:", "data:")):
                route.continue_()
            else:
                seen.elsewhere.append(route.request.url)
                route.abort()

        page.route("**/*", check)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        pages.append(seen)
        return page

    yield opened
    for seen in pages:
        assert seen.complaints == []
        assert seen.elsewhere == []
        seen.page.context.close()


@pytest.fixture(scope="module")
def known(service_file):
    return specimen(service_file, "test_seen", 0)


def picture(name, content):
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


def drop(page, files, content=()):
    """Drop files, given as JavaScript: parts and names."""
    transfer = page.evaluate_handle(
        f"""content => {{
            const bytes = new Uint8Array(content);
            const transfer = new DataTransfer();
            for (const [part, name] of {files})
                transfer.items.add(new File([part], name, {{ type: "image/jpeg" }}));
            return transfer;
        }}""",
        content,
    )
    page.dispatch_event(".zone", "drop", {"dataTransfer": transfer})


def finished(page, cards):
    expect(page.locator(".card")).to_have_count(cards)
    expect(page.locator("progress")).to_have_count(0)


def test_drop_photos(open_page, known):
    page = open_page()
    drop(page, '[[bytes, "dropped.jpg"], ["no picture", "notes.jpg"]]', list(known.photo))
    finished(page, 2)
    photo, text = (page.locator(".card").nth(place) for place in (0, 1))
    expect(photo.locator(".names li").nth(1)).to_contain_text(known.family)
    expect(photo.locator(".frame")).to_be_visible()
    expect(photo.locator(".near li")).to_have_count(5)
    expect(photo.locator(".near img").first).to_have_js_property("complete", True)
    expect(text.locator("summary")).to_contain_text("It is no photo in a format that can be read")
    expect(page.locator("#status")).to_have_text("2 specimens, 1 with an error")


def test_paste_a_reversed_barcode(open_page, known):
    page = open_page()
    page.fill("#barcodes", known.barcode.translate(COMPLEMENT)[::-1].lower())
    page.get_by_role("button", name="Name barcodes").click()
    finished(page, 1)
    expect(page.locator(".names li").nth(3)).to_contain_text(known.species)
    expect(page.locator(".remarks")).to_contain_text("reverse complement taken")
    page.fill("#barcodes", "ACGTTGCAAGCTTAGCATCGATCGGAT" * 20)
    page.click("#send")
    finished(page, 2)
    expect(page.locator(".card").first).to_contain_text("does not look like a COI barcode")
    expect(page.locator(".card").first.locator(".names li")).to_have_count(0)


def test_a_photo_is_joined_by_its_barcode(open_page, known):
    page = open_page()
    page.set_input_files("#files", picture("one.jpg", known.photo))
    finished(page, 1)
    card = page.locator(".card")
    page.get_by_text("Add its barcode").click()
    page.get_by_role("button", name="Name by both").click()  # without one
    finished(page, 1)
    expect(card.locator(".photo .warning")).to_have_count(0)
    page.fill(".photo textarea", ">a\nACGTACGTACGT\n>b\nACGTACGTACGT")
    page.get_by_role("button", name="Name by both").click()
    expect(card.locator(".photo .warning")).to_have_text("These are 2 barcodes; give one.")
    page.fill(".photo textarea", known.barcode)
    page.get_by_role("button", name="Name by both").click()
    expect(card.locator("summary .of").first).to_contain_text("photo and barcode one.jpg")
    expect(card.locator(".names li").nth(3)).to_contain_text(known.species)
    expect(card.locator(".near")).to_contain_text("identity 9")
    page.fill(".photo textarea", "")
    page.get_by_role("button", name="Name by both").click()
    expect(card.locator(".near")).not_to_contain_text("identity")
    expect(card.locator(".photo textarea")).to_be_visible()


def test_names_are_shown_as_they_are(open_page, library, service_file):
    families = library.table(library.kept.nonzero()[0])["family"]
    row = int((families == EVIL).to_numpy().argmax())
    page = open_page()
    page.fill("#barcodes", f">{EVIL}\n{library.barcodes(library.kept.nonzero()[0])[row]}")
    page.click("#send")
    finished(page, 1)
    expect(page.locator(".names li").nth(1).locator("b")).to_have_text(EVIL)
    assert page.locator("img[src=x]").count() == 0


def test_slider_changes_answers_as_the_service_does(open_page, known, address, service_file):
    barcodes = [specimen(service_file, "test_unseen", row).barcode for row in range(8)]
    listed = [{"id": f"s{row}", "barcode": barcode} for row, barcode in enumerate(barcodes)]
    page = open_page()
    table = "\n".join(["id,nuc", *(f"{one['id']},{one['barcode']}" for one in listed)])
    page.set_input_files(
        "#files",
        {
            "name": "t.csv",
            "mimeType": "text/csv",
            "buffer": table.encode(),
        },
    )
    finished(page, 8)
    for precision in (0.95, 0.6):
        page.fill("#precision", str(round(100 * precision)))
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        answer = httpx.post(
            f"{address}/api/identify", json={"barcodes": listed, "precision": precision}
        ).json()
        for row, result in zip(rows, answer["results"], strict=True):
            assert row["answer"] == result["answer"]
            assert row["accepted_name"] == (result["accepted_name"] or "")
            assert row["family_accepted"] == str(result["family_accepted"])
            assert float(row["order_confidence"]) == round(result["order_confidence"], 4)
            assert row["nearest_ids"] == "; ".join(result["nearest_ids"])


def test_many_photos_show_progress_and_stay_in_the_history(open_page, known):
    page, held = open_page(), []
    page.route("**/api/identify", lambda route: held.append(route))
    page.set_input_files("#files", [picture(f"{row}.jpg", known.photo) for row in range(12)])
    expect(page.locator(".batch progress")).to_have_attribute("max", "12")
    page.wait_for_timeout(500)
    assert len(held) == 4
    page.unroute("**/api/identify")
    for route in held:
        route.continue_()
    finished(page, 12)
    expect(page.locator("#status")).to_have_text("12 specimens")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    finished(page, 12)
    page.locator(".card summary").nth(3).click()
    expect(page.locator(".card").nth(3).locator(".names li")).to_have_count(4)
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_crop_by_keyboard_and_taxa(open_page, known, library):
    page = open_page()
    page.set_input_files("#files", picture("one.jpg", known.photo))
    finished(page, 1)
    page.get_by_role("button", name="Adjust the crop").click()
    page.get_by_label("Size").focus()
    for _ in range(20):
        page.keyboard.press("PageDown")
    with page.expect_request("**/api/identify") as sent:
        page.get_by_role("button", name="Name this part").click()
    finished(page, 1)
    form = sent.value.post_data_buffer
    left, top, right, bottom = map(
        int, form.split(b'name="crop"\r\n\r\n')[1].split(b"\r\n")[0].split(b",")
    )
    assert 0 < right - left == bottom - top < 60
    other = next(
        order for order in library.table(library.kept.nonzero()[0])["order"].dropna().unique()
    )
    page.fill("#taxa", f"{other}\nNobodii")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Name all again").click()
    expect(page.locator("#taxa-note")).to_have_text("Not in the library: Nobodii.")
    expect(page.locator(".names li").first).to_contain_text(other)


def test_examples_are_named_by_others(open_page):
    page = open_page()
    page.locator(".examples button").first.click()
    finished(page, 1)
    own = page.locator(".card .of").inner_text().split()[-1]
    assert own not in page.locator(".near").inner_text()
    page.locator(".examples .sequence").click()
    finished(page, 2)


def test_too_large_and_empty_files(open_page):
    page = open_page()
    drop(page, '[[new Uint8Array(33000000), "large.jpg"]]')
    expect(page.locator(".card")).to_contain_text("It has 33 MB; photos of up to 32 MB are taken.")
    page.set_input_files("#files", {"name": "n.txt", "mimeType": "text/plain", "buffer": b" "})
    page.set_input_files("#files", picture("wide.png", png(900, 10)))
    finished(page, 3)
    expect(page.locator(".card", has_text="wide.png")).to_contain_text("900 x 10 pixels")
    expect(page.locator(".card", has_text="n.txt")).to_contain_text("The text is empty")


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(open_page, known, width, scheme):
    page = open_page(width, color_scheme=scheme, is_mobile=width < 400, has_touch=width < 400)
    assert page.locator(".camera").is_visible() is (width < 400)
    axe = Axe()

    def serious():
        found = axe.run(page).response["violations"]
        return [one["id"] for one in found if one["impact"] in ("serious", "critical")]

    assert serious() == []
    page.set_input_files(
        "#files", [picture("one.jpg", known.photo), picture("notes.jpg", b"no picture")]
    )
    finished(page, 2)
    assert serious() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Adjust the crop").click()
    assert serious() == []
