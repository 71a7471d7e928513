"""The page and the HTTP interface."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import jinja2
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware

from projects.bioscan_clip.inference.service.answers import (
    VERSION,
    Answer,
    BarcodeList,
    BarcodeRequest,
    LibraryFacts,
    Options,
    PhotoRequest,
    Result,
)
from projects.bioscan_clip.inference.service.batching import Batcher, FullError
from projects.bioscan_clip.inference.service.guard import Guard, Limits
from projects.bioscan_clip.inference.service.namer import Namer, Query, read_barcodes
from projects.bioscan_clip.reports.html import LOOK

_FOLDER: Final = Path(__file__).parent
_OF_EACH: Final = ("photos", "barcodes", "crop")
_NAME: Final = 500
_TEXT: Final = {"requestBody": {"required": True, "content": {"text/plain": {}}}}
_SPECIMENS: Final = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": model.model_json_schema(ref_template="#/components/schemas/{model}")}
            for kind, model in (
                ("application/json", BarcodeRequest),
                ("multipart/form-data", PhotoRequest),
            )
        },
    }
}


class Service:
    """What is behind the routes; their docstrings are what ``/openapi.json`` says of them.

    Parameters
    ----------
    namer : Namer
        Names specimens.
    limits : Limits
        What is taken.
    """

    def __init__(self, namer: Namer, limits: Limits) -> None:
        self.namer = namer
        self.limits = limits
        self.batcher: Batcher[Query, dict[str, Any]]
        patience = limits.seconds / 2  # who would wait in vain is told at once
        self.batcher = Batcher(namer, limits.at_once, limits.specimens, patience)
        self.decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self.in_flight = 0

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Work on batches between start and end."""
        # The first answer needs what is read and computed once.
        await asyncio.to_thread(self.namer, [Query("warm", Options(), barcode="ACGT" * 100)])
        worker = asyncio.create_task(self.batcher.run())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        self.decoders.shutdown()

    async def admit(self, request: Request) -> AsyncIterator[None]:
        """Postpone a request if there are too many, and end it if it takes too long."""
        if self.in_flight >= self.limits.requests:
            async for _ in request.stream():
                pass  # else the client may see a broken connection instead of the answer
            raise FullError(1)
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        finally:
            self.in_flight -= 1

    def healthz(self) -> dict[str, str | int]:
        """Say that the service runs, and how many specimens are waiting."""
        return {"status": "ok", "waiting": self.batcher.taken}

    def library(self) -> LibraryFacts:
        """Say what the library holds, what its probabilities rest on, and what may be sent."""
        return LibraryFacts(**self.namer.facts, limits=asdict(self.limits))

    def photo(self, id: str) -> Response:
        """Return the photo of a specimen of the library, as a JPEG of up to 512 pixels."""
        try:
            content = self.namer.photo(id)
        except LookupError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "max-age=600"})

    async def barcodes(self, request: Request) -> BarcodeList:
        """List the barcodes of a text: FASTA, FASTQ, a table or nothing but bases."""
        try:
            text = (await request.body()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise HTTPException(422, "This is no text (UTF-8) with barcodes.") from None
        listed = await asyncio.to_thread(read_barcodes, text)
        return BarcodeList.model_validate({"barcodes": listed})

    async def identify(self, request: Request) -> Answer:
        """Name specimens by photos, barcodes or both; an error of one does not stop the others."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "application/json":
            asked = BarcodeRequest.model_validate_json(await request.body())
            options = Options(**asked.model_dump(exclude={"barcodes"}))
            queries = [Query(one.id, options, one.barcode) for one in asked.barcodes]
            return await self._answer(queries, options, self.limits.barcodes)
        if kind == "multipart/form-data":
            most = self.limits.photos
            fields = {"max_fields": 4 * most, "max_part_size": 1 << 18}
            async with request.form(max_files=most, **fields) as form:
                queries, options, photos, crops = _read_form(form)
                return await self._answer(queries, options, most, photos, crops)
        raise HTTPException(
            415, "Send photos as multipart/form-data, or barcodes as application/json."
        )

    async def _answer(
        self,
        queries: list[Query],
        options: Options,
        most: int,
        photos: Sequence[UploadFile] = (),
        crops: Sequence[str] = (),
    ) -> Answer:
        if not 0 < len(queries) <= most:
            raise HTTPException(413 if queries else 422, f"Send 1 to {most} specimens at once.")

        def read(query: Query, photo: UploadFile, crop: str) -> None:
            self.namer.read_photo(query, photo.file.read(), crop)

        with self.batcher.room(len(queries)):
            library, unknown = await asyncio.to_thread(self.namer.within, options)
            reading = [self.decoders.submit(read, *one) for one in zip(queries, photos, crops)]  # noqa: B905
            await asyncio.gather(*map(asyncio.wrap_future, reading))
            results = await self.batcher.submit(queries)
        return Answer(
            version=VERSION,
            **self.namer.hashes,
            options=options,
            specimens=len(library),
            unknown_names=unknown,
            results=[Result(**result) for result in results],
        )


def create_app(namer: Namer, limits: Limits, hosts: Sequence[str] = ("*",)) -> FastAPI:
    """Make the service.

    Parameters
    ----------
    namer, limits
        See :class:`Service`.
    hosts : sequence of str
        Names that it may be called by. Those of this machine alone keep pages of other sites from
        reading answers under a name that they have made point here.

    Returns
    -------
    fastapi.FastAPI
        An ASGI application.
    """
    service = Service(namer, limits)
    # FastAPI's own pages of documentation would load scripts from another site.
    app = FastAPI(
        title="bioscan-clip",
        version=str(VERSION),
        docs_url=None,
        redoc_url=None,
        lifespan=service.lifespan,
        exception_handlers=_REFUSALS,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Guard, request_bytes=limits.request_bytes)
    app.mount("/static", StaticFiles(directory=_FOLDER / "static"), name="static")
    page = _page(namer)
    app.get("/", include_in_schema=False)(lambda: HTMLResponse(page))
    app.get("/look.css", include_in_schema=False)(lambda: Response(LOOK, media_type="text/css"))
    app.get("/healthz")(service.healthz)
    app.get("/api/library")(service.library)
    app.get("/api/library/photo", response_class=Response)(service.photo)
    admitted = [Depends(service.admit)]
    app.post("/api/barcodes", dependencies=admitted, openapi_extra=_TEXT)(service.barcodes)
    app.post("/api/identify", dependencies=admitted, openapi_extra=_SPECIMENS)(service.identify)
    return app


def _refuse_field(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "The request"
    return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def _postpone(_: Request, error: Any) -> JSONResponse:
    seconds = error.seconds if isinstance(error, FullError) else 10
    detail = f"Too much is being worked on; try again in {seconds} seconds."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": str(seconds)})


_REFUSALS: Final[dict[Any, Any]] = {
    RequestValidationError: _refuse_field,
    ValidationError: _refuse_field,
    ValueError: _refuse,
    FullError: _postpone,
    TimeoutError: _postpone,
}


def _read_form(form: FormData) -> tuple[list[Query], Options, list[UploadFile], list[str]]:
    """Return specimens of a form, how they are named, their photos and how these are cut."""
    photos = [part for part in form.getlist("photos") if isinstance(part, UploadFile)]
    barcodes, crops = ([str(part) for part in form.getlist(n)] for n in ("barcodes", "crop"))
    barcodes = barcodes or [""] * len(photos)
    crops = crops if len(crops) > 1 else (crops or ["none"]) * len(photos)
    if not len(photos) == len(barcodes) == len(crops):
        raise ValueError("Give as many barcodes, and as many crops or one, as photos.")
    options = Options.model_validate(
        {name: value for name, value in form.items() if name not in _OF_EACH}
    )
    names = [(photo.filename or f"photo {row}")[:_NAME] for row, photo in enumerate(photos, 1)]
    queries = [Query(name, options, text) for name, text in zip(names, barcodes, strict=True)]
    return queries, options, photos, crops


def _page(namer: Namer) -> str:
    loader = jinja2.FileSystemLoader(_FOLDER)
    pages = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined)
    return pages.get_template("page.html.j2").render(facts=namer.facts)
