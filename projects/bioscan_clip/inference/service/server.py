"""`bioscan-clip serve`."""

import ipaddress
import logging
import socket
from pathlib import Path

import python_multipart  # noqa: F401 - without it, forms fail only when they come
import uvicorn

from projects.bioscan_clip.inference.building import model_of
from projects.bioscan_clip.inference.embedding import loaded_model
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.service.app import create_app
from projects.bioscan_clip.inference.service.guard import Limits
from projects.bioscan_clip.inference.service.namer import Namer


def serve(folder: Path, host: str, port: int, model: str | None = None) -> None:
    """Serve the page and the HTTP interface until SIGTERM or Ctrl-C.

    What was accepted until then is answered first.

    Parameters
    ----------
    folder : pathlib.Path
        A reference library; changes of it count after a restart.
    host, port
        Where to listen; port 0 is any that is free.
    model : str, optional
        Where the library's model is, if not where it was.

    Raises
    ------
    ValueError
        If it cannot listen there.
    """
    library = ReferenceLibrary.open(folder)
    namer = Namer(loaded_model(model_of(library, model)), library)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(
            f"Port {port} of {host} cannot be listened on ({error.strerror}); name others with "
            "--port and --host."
        ) from error
    address, port = listening.getsockname()[:2]
    is_local = ipaddress.ip_address(address).is_loopback
    hosts = ("localhost", "127.0.0.1", "::1", host) if is_local else ("*",)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    shown = f"[{host}]" if ":" in host else host
    print(f"{folder}, {len(library):,} specimens: http://{shown}:{port}", flush=True)
    print(
        "Only this machine can reach it. Ctrl-C ends it."
        if is_local
        else "Everyone who can reach this machine can use it: there is neither a login nor "
        "encryption. Put a reverse proxy with both in front. Ctrl-C ends it.",
        flush=True,
    )
    config = uvicorn.Config(
        create_app(namer, Limits(), hosts),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=10,
    )
    uvicorn.Server(config).run(sockets=[listening])
