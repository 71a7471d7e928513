"""What is published, fetched so that a broken connection costs no more than the rest of a file."""

import hashlib
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
from rich.console import Console

from projects.bioscan_clip.data_tools.writing import bytes_progress
from projects.bioscan_clip.datasets.hdf5 import PARTIAL_SUFFIX

What = Literal["1m", "5m", "barcodebert", "clibd"]

_CLIBD = "https://aspis.cmpt.sfu.ca/projects/bioscan"
_TRIES = 6
_FIRST_PAUSE = 2.0
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Publication:
    """A file on the web.

    Attributes
    ----------
    url : str
        Its address.
    variable : str
        Environment variable that tells experiments where the file is; empty if none does.
    md5 : str or None
        Its published checksum.
    """

    url: str
    variable: str = ""
    md5: str | None = None


PUBLISHED: Final = {
    "1m": Publication(
        f"{_CLIBD}/clip_project/data/version_0.2.1/BioScan_data_in_splits.hdf5", "BIOSCAN_1M_HDF5"
    ),
    "5m": Publication(f"{_CLIBD}/BIOSCAN_CLIP_for_downloading/BIOSCAN_5M.hdf5", "BIOSCAN_5M_HDF5"),
    "barcodebert": Publication(
        f"{_CLIBD}/clip_project/ckpt/BarcodeBERT/model_41.pth", "BARCODEBERT_5MER"
    ),
}


def download(what: What, folder: Path, url: str | None = None) -> str:
    """Fetch something, unpack it if it is an archive, and say what to do next.

    Parameters
    ----------
    what : {"1m", "5m", "barcodebert", "clibd"}
        A published HDF5 file, BarcodeBERT's weights, or CLIBD's partition of BIOSCAN-1M.
    folder : pathlib.Path
        Where to; made if there is none.
    url : str, optional
        Another address of the same file.

    Returns
    -------
    str
        The command that makes use of it.

    Raises
    ------
    OSError
        If the address cannot be reached, the disk has too little room, or the checksum is wrong.
    """
    publication = _partition() if what == "clibd" else PUBLISHED[what]
    address = url or publication.url
    path = folder / Path(publication.url).name
    folder.mkdir(parents=True, exist_ok=True)
    fetch(address, path, publication.md5)
    if what != "clibd":
        return f"export {publication.variable}={path.resolve()}"
    _unpack_lists(path, folder / "bioscan1m" / "CLIBD_partitioning")
    return f"bioscan-clip data build --dataset 1m --root {folder} --out <file>"


def fetch(url: str, path: Path, md5: str | None = None, pause: float = _FIRST_PAUSE) -> None:
    """Fetch a file, or the rest of it.

    Parameters
    ----------
    url : str
        Its address.
    path : pathlib.Path
        Where to. What has arrived is kept beside it until all of it has.
    md5 : str, optional
        Its checksum.
    pause : float, default=2.0
        Seconds before a second try; doubled for each further one.

    Raises
    ------
    OSError
        If it cannot be fetched, the disk has too little room, or the checksum is wrong.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
        if path.exists() and path.stat().st_size == _size_of(client, url):
            return
        for attempt in range(1, _TRIES + 1):
            try:
                _fetch_rest(client, url, partial)
                break
            except httpx.TransportError as error:
                if attempt == _TRIES:
                    raise OSError(
                        f"{url} could not be fetched in {_TRIES} tries ({error}). What has arrived "
                        "is kept: run the same command again to go on."
                    ) from error
                seconds = pause * 2 ** (attempt - 1)
                Console(stderr=True).print(f"{error}. Trying again in {seconds:.0f} s.")
                time.sleep(seconds)
    _check_sum(partial, md5)
    partial.replace(path)
    _validator_of(partial).unlink(missing_ok=True)


def _size_of(client: httpx.Client, url: str) -> int | None:
    try:
        return int(client.head(url).headers.get("content-length", -1))
    except httpx.TransportError:
        return None


def _fetch_rest(client: httpx.Client, url: str, partial: Path) -> None:
    """Append what is missing, or start over if the file on the web is another one by now."""
    validator = _validator_of(partial)
    there = partial.stat().st_size if partial.exists() and validator.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": validator.read_text()}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("content-range") == f"bytes */{there}":
                return  # all of it had arrived
            partial.unlink()
            raise httpx.ReadError("the file has changed")
        if response.is_error:
            raise OSError(f"{url} answers with status {response.status_code}.")
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            there = 0
        total = there + int(response.headers.get("content-length", 0))
        _check_room(partial, total - there)
        _note_validator(response, validator)
        with partial.open("ab") as file, bytes_progress() as progress:
            file.truncate(there)
            task = progress.add_task(partial.stem, total=total or None, completed=there)
            for chunk in response.iter_raw():
                file.write(chunk)
                progress.advance(task, len(chunk))


def _note_validator(response: httpx.Response, validator: Path) -> None:
    """Keep what tells this version of the file from others; without it, nothing is continued."""
    tag = response.headers.get("etag", "")
    if not tag or tag.startswith("W/"):  # a weak one does not mean the same bytes
        tag = response.headers.get("last-modified", "")
    if tag:
        validator.write_text(tag)
    else:
        validator.unlink(missing_ok=True)


def _validator_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".version")


def _check_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise OSError(
            f"{needed:,} bytes are still to come, but the disk of {partial.parent} has {free:,} "
            "free. Make room, or give another folder by --to."
        )


def _check_sum(partial: Path, md5: str | None) -> None:
    if md5 is None:
        return
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        partial.unlink()
        raise OSError(
            f"{partial.stem} arrived damaged and was deleted: its MD5 is {found}, not {md5}. Run "
            "the same command again."
        )


def _partition() -> Publication:
    from bioscan_dataset import BIOSCAN1M

    files = BIOSCAN1M.clibd_partitioning_files
    return Publication(files["url"], md5=files["md5"])


def _unpack_lists(archive: Path, folder: Path) -> None:
    """Unpack the lists of an archive, whatever folders it says that they are in."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            lists = [name for name in packed.namelist() if name.endswith(".txt")]
            for name in lists:
                (folder / Path(name).name).write_bytes(packed.read(name))
    except zipfile.BadZipFile as error:
        raise OSError(f"{archive} is not a zip archive; delete it and try again.") from error
