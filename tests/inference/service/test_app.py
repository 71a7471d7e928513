"""The HTTP interface, over a library that needs no trained model."""

import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app as cli
from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.inference.embedding import encode_barcodes
from projects.bioscan_clip.inference.identify import Queries
from projects.bioscan_clip.inference.naming import name_specimens
from projects.bioscan_clip.inference.service import server
from projects.bioscan_clip.inference.service.answers import Result
from projects.bioscan_clip.inference.service.app import create_app
from projects.bioscan_clip.inference.service.guard import HEADERS, Limits
from projects.bioscan_clip.inference.service.namer import Namer, read_barcodes
from tests.inference.service.plain import png, specimen

ROOT = Path(__file__).parents[3]
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def client_of(namer, hosts=("*",), **limits):
    return TestClient(create_app(namer, Limits(**limits), hosts))


@pytest.fixture(scope="module")
def client(namer):
    with client_of(namer) as client:
        yield client


@pytest.fixture(scope="module")
def known(service_file):
    return specimen(service_file, "test_seen", 0)


def named(client, *barcodes, **options):
    listed = [{"id": str(row), "barcode": text} for row, text in enumerate(barcodes)]
    return client.post("/api/identify", json={"barcodes": listed, **options})


def photographed(client, *photos, **fields):
    return client.post("/api/identify", files=[("photos", one) for one in photos], data=fields)


def test_barcodes_get_what_the_command_writes(client, library, model, known):
    answer = named(client, known.barcode, "ACGT!", precision=0.9, top_k=3).json()
    encoded, placed = encode_barcodes(model, [known.barcode])
    described = pd.DataFrame({"id": ["0"], "error": [""], "note": [encoded.notes.get(0, "")]})
    expected = name_specimens(
        library, Queries(dna=encoded.embeddings, barcodes=placed), described, 0.9, 3
    )
    first, second = answer["results"]
    assert list(first)[:-2] == list(expected) == list(Result.model_fields)[:-2]
    for name, value in json.loads(expected.to_json(orient="records", double_precision=15))[
        0
    ].items():
        assert first[name] == value
    assert first["species"] == known.species
    assert second["query"] == ""
    assert second["error"].startswith("barcode: The barcode 'ACGT!' holds '!'")
    assert answer["version"] == 1
    assert answer["model_hash"] == model.hash
    assert answer["specimens"] == len(library)


def test_photos_with_and_without_barcodes(client, known):
    files = [("a.jpg", known.photo), ("notes.jpg", b"no picture"), ("b.jpg", known.photo)]
    data = {"barcodes": ["", "", known.barcode], "crop": ["none", "none", "10,20,110,120"]}
    answer = photographed(client, *files, **data).json()
    photo, text, both = answer["results"]
    assert (photo["id"], photo["query"], photo["family"]) == ("a.jpg", "photo", known.family)
    assert photo["crop"] is None
    assert list(Image.open(io.BytesIO(known.photo)).size) == photo["photo_size"]
    assert text["query"] == ""
    assert "no photo in a format" in text["error"]
    assert (both["query"], both["crop"]) == ("both", [10, 20, 110, 120])


def test_a_crop_that_is_found_can_be_given(client):
    tray = Image.new("RGB", (300, 200), (250, 250, 250))
    tray.paste((30, 60, 20), (200, 40, 260, 120))
    stream = io.BytesIO()
    tray.save(stream, "PNG")
    found = photographed(client, ("t.png", stream.getvalue()), crop="auto").json()["results"][0]
    left, top, right, bottom = found["crop"]
    assert left < 200 < 260 < right
    assert top < 40 < 120 < bottom
    crop = ",".join(map(str, found["crop"]))
    given = photographed(client, ("t.png", stream.getvalue()), crop=crop).json()["results"][0]
    assert given == found
    for wrong in ("0,0,400,100", "1,1", "nan,0,1,1", "5,5,5,9"):
        refused = photographed(client, ("t.png", stream.getvalue()), crop=wrong).json()
        assert "crop" in refused["results"][0]["error"]


def test_names_within_taxa_and_without_the_specimen_itself(client, library, known):
    table = library.table(np.flatnonzero(library.kept))
    order = table["order"][0]
    for taxa in (f"order={order}", f"Nobodii, {order}"):
        answer = named(client, known.barcode, restrict_to=taxa).json()
        assert answer["results"][0]["order"] == order
        assert answer["specimens"] == (table["order"] == order).sum()
    assert answer["unknown_names"] == ["Nobodii"]
    refused = named(client, known.barcode, restrict_to="Nobodii")
    assert (refused.status_code, refused.json()["detail"][:25]) == (
        422,
        "No specimen of the librar",
    )
    assert named(client, known.barcode, restrict_to="/etc/passwd").status_code == 422
    own = table["sampleid"][5]
    barcode = library.barcodes(np.array([5]))[0]
    assert own in named(client, barcode).json()["results"][0]["nearest_ids"]
    assert own not in named(client, barcode, leave_out=own).json()["results"][0]["nearest_ids"]


def test_what_a_library_is(client, library):
    facts = client.get("/api/library").json()
    assert facts["specimens"] == len(library)
    assert set(facts["calibrated"]) == {"photo", "barcode", "both"}
    assert [len(row) for row in facts["calibrated"]["photo"]["thresholds"]] == [50] * len(RANKS)
    assert set(facts["limits"]) == {field.name for field in fields(Limits)}
    for example in facts["examples"]:
        photo = client.get("/api/library/photo", params={"id": example["id"]})
        assert photo.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(photo.content)).size) <= 512
    assert len(facts["examples"]) == 6
    for strange in ("nobody", "../../etc/passwd", ""):
        assert client.get("/api/library/photo", params={"id": strange}).status_code == 404


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">a one\nACGT\nACGT\n>b\nTTTT\n", [("a", "ACGTACGT"), ("b", "TTTT")]),
        ("id,nuc,species\nx,ACGT,Apis mellifera\ny,,Apis\n", [("x", "ACGT"), ("y", "")]),
        ("processid\tnucleotides\nP1\tACGT\n", [("P1", "ACGT")]),
        ("ACGTACGT\nACGTACGT\nACG\n", [("barcode 1", "ACGTACGTACGTACGTACG")]),
        ("ACGT\n\nAC\nTT", [("barcode 1", "ACGT"), ("barcode 2", "AC"), ("barcode 3", "TT")]),
        ("  acgt \n", [("barcode 1", "acgt")]),
    ],
)  # fmt: skip
def test_pasted_barcodes_are_read(text, expected):
    assert [tuple(one.values()) for one in read_barcodes(text)] == expected


def test_pasted_text_that_holds_none(client):
    for text, sentence in (
        (" \n", "The text is empty"),
        ("photo,name\n/etc/passwd,x\n", ""),
        ("a,b\n1,2\n", "The text has no column"),
        (">\n", ""),
    ):
        answer = client.post("/api/barcodes", content=text)
        listed = answer.json().get("barcodes", [])
        assert not any(one["barcode"] for one in listed)
        assert sentence in answer.json().get("detail", "")
    assert client.post("/api/barcodes", content=b"\xff\xd8\xff").status_code == 422


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"barcodes": []}, "Send 1 to"),
        ({}, "barcodes: Field required"),
        ({"barcodes": [{"id": "x"}]}, "barcodes.0.barcode: Field required"),
        (
            {"barcodes": [{"id": "x", "barcode": "A"}], "precision": 0.999},
            "precision: Input should",
        ),
        ({"barcodes": [{"id": "x", "barcode": "A"}], "colour": 1}, "colour: Extra inputs"),
    ],
)
def test_wrong_requests_get_a_sentence(client, body, sentence):
    answer = client.post("/api/identify", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)


def test_limits(namer, known):
    with client_of(namer, request_bytes=1_000_000, photos=2, barcodes=2) as client:
        large = photographed(client, ("a.png", png(10, 10) + bytes(1_000_000)))
        assert (large.status_code, large.json()["detail"][:21]) == (413, "A request has at most")
        chunks = iter([b"x" * 600_000] * 3)
        assert client.post("/api/barcodes", content=chunks).status_code == 413
        assert named(client, *["ACGT"] * 3).status_code == 413
        assert photographed(client, *[("a.png", png(9, 9))] * 3).status_code == 400
        bomb = photographed(client, ("bomb.png", png(9000, 9000))).json()["results"][0]
        assert "9000 x 9000 pixels are more than" in bomb["error"]
        assert client.post("/api/identify", content=b"x").status_code == 415
    with client_of(namer, specimens=2) as client:
        full = named(client, *["ACGT" * 50] * 3)
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) >= 1
        assert named(client, known.barcode).status_code == 200


class SlowNamer(Namer):
    """Waits until it may go on."""

    gate = threading.Event()

    def __call__(self, queries):
        if queries[0].id != "warm":
            self.gate.wait(10)
        return super().__call__(queries)


def test_requests_share_batches_and_too_many_are_postponed(model, library, known):
    namer = SlowNamer(model, library)
    with client_of(namer, requests=6) as client, ThreadPoolExecutor(9) as clients:
        model.batches.clear()
        photo = ("a.jpg", known.photo)
        asked = [clients.submit(photographed, client, photo) for _ in range(6)]
        while client.get("/healthz").json()["waiting"] < 6:
            pass
        late = photographed(client, photo)
        namer.gate.set()
        assert [one.result().status_code for one in asked] == [200] * 6
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert sum(model.batches) == 6
    assert len(model.batches) <= 3  # at most two before the gate, the others together


def test_who_waits_too_long_is_told(model, library, known):
    namer = SlowNamer(model, library)
    namer.gate = threading.Event()
    with client_of(namer, seconds=0.2) as client:
        late = named(client, known.barcode)
        namer.gate.set()
    assert late.status_code == 503
    assert "retry-after" in late.headers


def test_headers_and_pages(client):
    for path in ("/", "/static/serve.js", "/api/library", "/nothing"):
        headers = client.get(path).headers
        for name, value in HEADERS.items():
            assert name in headers
            assert name == "Cache-Control" or headers[name] == value
    page = client.get("/").text
    assert "<script>" not in page
    assert "style=" not in page
    assert not re.search(r"\bon\w+=", page)
    assert "http" not in page
    assert {client.get(path).status_code for path in ("/docs", "/redoc", "/static/../app.py")} == {
        404
    }
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/healthz", "/api/library", "/api/library/photo", "/api/barcodes", "/api/identify",
    }  # fmt: skip
    text = json.dumps(schema)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in schema["components"]["schemas"]


def test_other_sites_cannot_give_it_a_name(namer):
    with client_of(namer, hosts=("127.0.0.1",)) as client:
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/healthz", headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_log_has_a_line_per_request_without_the_content(client, known, caplog):
    with caplog.at_level(logging.INFO):
        photographed(client, ("secret-name.jpg", known.photo), restrict_to="Secretidae")
        client.get("/api/library/photo", params={"id": "secret"})
        client.get("/secret%0Aline")
    lines = [one.message for one in caplog.records if one.name.startswith("projects")]
    assert [line.split(",")[0] for line in lines] == [
        "POST /api/identify 422", "GET /api/library/photo 404", "GET (other) 404",
    ]  # fmt: skip


def test_curl_lines_of_the_docs_run(address, tmp_path, service_file):
    known = specimen(service_file, "test_seen", 0)
    (tmp_path / "moth.jpg").write_bytes(known.photo)
    (tmp_path / "barcodes.fasta").write_text(f">one\n{known.barcode}\n")
    page = (ROOT / "docs" / "serve.md").read_text()
    lines = re.findall(r"^curl (?:.*\\\n)*.*$", page, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        line = line.replace("http://127.0.0.1:8000", address).replace("SAMPLEID", "nobody")
        line = re.sub("[ACGT]{50,}", known.barcode, line)  # the sample's are invented
        run = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True, executable="/bin/bash"
        )
        assert run.returncode == 0, run.stderr
        answer = json.loads(run.stdout)
        if "api/identify" in line:
            assert answer["results"][0]["query"] in ("photo", "barcode", "both")


def test_the_command_serves_and_drains(library, service_file, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.inference.service.plain", library.folder, service_file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        assert "Only this machine" in process.stdout.readline()
        barcode = specimen(service_file, "test_seen", 0).barcode
        listed = [{"id": str(row), "barcode": barcode} for row in range(400)]
        with ThreadPoolExecutor(1) as clients:
            asked = clients.submit(
                httpx.post, f"{address}/api/identify", json={"barcodes": listed}, timeout=60
            )
            while httpx.get(f"{address}/healthz", timeout=60).json()["waiting"] == 0:
                pass
            process.send_signal(signal.SIGTERM)
            assert len(asked.result().json()["results"]) == 400
        logged = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM
    assert "POST /api/identify 200" in logged


@pytest.mark.parametrize(
    ("host", "sentence", "hosts"),
    [
        ("127.0.0.1", "Only this machine can reach it", "127.0.0.1"),
        ("0.0.0.0", "Everyone who can reach this machine can use it", "*"),
    ],
)
def test_says_who_can_reach_it(namer, library, monkeypatch, capsys, host, sentence, hosts):
    made = []
    monkeypatch.setattr(server, "model_of", lambda library, model: "")
    monkeypatch.setattr(server, "loaded_model", lambda source: namer.model)
    monkeypatch.setattr(server, "create_app", lambda namer, limits, hosts: made.append(hosts))
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    server.serve(library.folder, host, 0)
    assert sentence in capsys.readouterr().out
    assert hosts in made[0]


def test_what_cannot_be_served_is_said_in_a_sentence(namer, library, monkeypatch):
    monkeypatch.setattr(server, "model_of", lambda library, model: "")
    monkeypatch.setattr(server, "loaded_model", lambda source: namer.model)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["serve", str(library.folder), "--port", port])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: Port {port} of 127.0.0.1 cannot be listened on")
    monkeypatch.delitem(sys.modules, "projects.bioscan_clip.inference.service.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(cli, ["serve", str(library.folder)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: `serve` needs uvicorn, which is not installed")
