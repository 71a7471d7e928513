"""What holds for every request: limits, headers, a line in the log."""

import logging
import time
from dataclasses import dataclass
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What a service takes.

    Attributes
    ----------
    request_bytes : int
        Bytes of a request.
    photos, barcodes : int
        Photos or barcodes of a request.
    requests : int
        Requests to name specimens at the same time.
    specimens : int
        Specimens in all of them.
    at_once : int
        Specimens that go through the model together.
    seconds : float
        Until a request must have arrived, and again until it is answered.
    """

    request_bytes: int = 32_000_000
    photos: int = 64
    barcodes: int = 500
    requests: int = 64
    specimens: int = 1024
    at_once: int = 32
    seconds: float = 60


class Guard:
    """Refuses what is too large, sets headers that browsers obey, and logs without the content.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    request_bytes : int
        Bytes of a request, at most.
    """

    def __init__(self, app: ASGIApp, request_bytes: int) -> None:
        self.app = app
        self.request_bytes = request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        received, status = 0, 500
        declared = Headers(scope=scope).get("content-length", "0")

        async def limited() -> Message:
            nonlocal received
            if int(declared) <= self.request_bytes:
                message = await receive()
                received += len(message.get("body", b""))
            if max(int(declared), received) > self.request_bytes:
                raise HTTPException(
                    413,
                    f"A request has at most {self.request_bytes / 1e6:g} MB; send less at once.",
                )
            return message

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, limited, with_headers)
        finally:
            # The route, not the path, in which somebody may have written anything.
            path = getattr(scope.get("route"), "path", "(other)")
            seconds = time.perf_counter() - start
            logger.info(
                "%s %s %d, %d bytes, %.3f s", scope["method"], path, status, received, seconds
            )
