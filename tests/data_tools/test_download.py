"""Downloads are made from a server on this machine, which misbehaves in known ways."""

import hashlib
import io
import re
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from projects.bioscan_clip.data_tools import download as module
from projects.bioscan_clip.data_tools.download import download, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves one file; tests set how."""

    content = CONTENT
    etag: str | None = '"one"'
    knows_ranges = True
    breaks_after: int | None = None
    status: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_response(self.server.status or 200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = 0
        if server.status is not None:
            self.send_response(server.status)
        elif asked and server.knows_ranges and self.headers.get("If-Range") == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                start = len(server.content)
            else:
                self.send_response(206)
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.breaks_after is not None:
            body, server.breaks_after = body[: server.breaks_after], None
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_whole_file(server, tmp_path):
    fetch(server.url, tmp_path / "file.bin", hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_broken_connection_goes_on_where_it_broke(server, tmp_path):
    server.breaks_after = 100_000
    fetch(server.url, tmp_path / "file.bin", pause=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_second_call_goes_on_after_a_kill(server, tmp_path, monkeypatch):
    server.breaks_after = 100_000
    monkeypatch.setattr(module, "_TRIES", 1)
    with pytest.raises(OSError, match=r"in 1 tries .*run the same command again to go on"):
        fetch(server.url, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    fetch(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges[1] == "bytes=100000-"


def test_file_that_had_arrived_but_for_its_name(server, tmp_path):
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)
    (tmp_path / "file.bin.partial.version").write_text('"one"')
    fetch(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({"knows_ranges": False}, "a server that sends everything again"),
        ({"etag": '"two"', "content": CONTENT[::-1]}, "a file that has changed"),
        ({"etag": None}, "a server that does not name versions"),
    ],
)
def test_starts_over(server, tmp_path, monkeypatch, changes, description):
    server.breaks_after = 100_000
    if changes.get("etag", "") is None:
        server.etag = None
    monkeypatch.setattr(module, "_TRIES", 1)
    with pytest.raises(OSError, match="could not be fetched"):
        fetch(server.url, tmp_path / "file.bin")
    for name, value in changes.items():
        setattr(server, name, value)
    fetch(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == server.content, description


def test_complete_file_is_not_fetched_again(server, tmp_path):
    fetch(server.url, tmp_path / "file.bin")
    fetch(server.url, tmp_path / "file.bin")
    assert len(server.ranges) == 1
    (tmp_path / "file.bin").write_bytes(b"an older version")
    fetch(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    found = hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(OSError, match=rf"arrived damaged .* its MD5 is {found}, not {'0' * 32}"):
        fetch(server.url, tmp_path / "file.bin", "0" * 32)
    assert not list(tmp_path.glob("*.bin*partial"))
    assert not (tmp_path / "file.bin").exists()


def test_no_such_file(server, tmp_path):
    server.status = 404
    with pytest.raises(OSError, match=r"file\.bin answers with status 404"):
        fetch(server.url, tmp_path / "file.bin")


def test_nobody_answers(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(OSError, match="could not be fetched in 6 tries"):
        fetch(url, tmp_path / "file.bin", pause=0)


def test_disk_too_small(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(OSError, match=r"300,000 bytes are still to come, but .* has 1,000 free"):
        fetch(server.url, tmp_path / "file.bin")
    assert not list(tmp_path.glob("*"))


def test_the_line_to_use(server, tmp_path):
    line = download("barcodebert", tmp_path / "weights", server.url)
    assert line == f"export BARCODEBERT_5MER={tmp_path}/weights/model_41.pth"
    assert (tmp_path / "weights" / "model_41.pth").read_bytes() == CONTENT


def test_partition_is_unpacked_to_where_build_looks_for_it(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("CLIBD_partitioning/val_seen.txt", "A\n")
        packed.writestr("../../evil.txt", "B\n")
        packed.writestr("/etc/evil.sh", "C\n")
    server.content = buffer.getvalue()
    known = module._partition()
    assert known.url.startswith("https://")
    sums = hashlib.md5(server.content).hexdigest()
    monkeypatch.setattr(module, "_partition", lambda: module.Publication(known.url, md5=sums))
    root = tmp_path / "deep" / "root"
    assert f"--root {root}" in download("clibd", root, server.url)
    lists = root / "bioscan1m" / "CLIBD_partitioning"
    assert (lists / "val_seen.txt").read_text() == "A\n"
    outside = [path for path in tmp_path.rglob("evil*") if lists not in path.parents]
    assert not outside
