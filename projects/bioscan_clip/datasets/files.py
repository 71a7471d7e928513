"""Opening a BIOSCAN HDF5 file, with a sentence where that fails."""

import errno
from pathlib import Path

import h5py

PARTIAL_SUFFIX = ".partial"
"""What the name of a file ends with while this project's tools write it."""

_CHUNK_CACHE = 8 << 20  # a row of the published 5M file lies in 0.9 MB of chunks, read whole


def open_file(path: str | Path) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    path : str or pathlib.Path
        The HDF5 file; ``~`` is expanded.

    Returns
    -------
    h5py.File
        The open file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, is incomplete, or is being written by another program.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(_nothing_there(path))
    try:
        # Shared cluster disks often refuse locks, and reading needs none.
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_CHUNK_CACHE)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and "lock" in str(error):
            raise ValueError(
                f"{path} is being written by another program. Wait until it is done."
            ) from error
        raise ValueError(
            f"{path} cannot be read as HDF5 ({error}). If it was downloaded or copied, that may be "
            "incomplete: compare its size with the original's."
        ) from error


def _nothing_there(path: Path) -> str:
    if path.with_name(path.name + PARTIAL_SUFFIX).exists():
        return (
            f"There is no data file {path} yet, only {path.name}{PARTIAL_SUFFIX}: it is still "
            "being written, or that was cut off. Run the command that writes it again to go on."
        )
    return (
        f"There is no data file {path}. `bioscan-clip data sample --out {path}` writes a small one "
        "to try things; the README says where the published ones are."
    )
