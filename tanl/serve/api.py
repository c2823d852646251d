"""A `Service` over HTTP: its routes, and every mistake as JSON ``{"error": ...}`` that says what to do."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any

from .. import __version__
from ..io.text import one_line
from .gate import Gate, TooLarge
from .service import Service, Upload

try:
    from anyio import CapacityLimiter, to_thread
    from fastapi import FastAPI, File, Form, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise ImportError(f"serving needs more packages ({error.name}): pip install 'tanl[serve]'") from error

_LOG = logging.getLogger(__name__)

MAX_BODY = 32 << 20
"""Bytes of a request that are taken if nothing else is said: 32 MiB."""

Images = Annotated[list[UploadFile], File(description="one image file or more, each a part of this name")]
Source = Annotated[
    str | None,
    Form(max_length=200, description="where the images come from, so that one sender cannot teach too much"),
]
Share = Annotated[float, Form(gt=0, lt=1, description="the share of such images that is to pass")]
Names = Annotated[list[str], Field(description="class names")]


class Labels(BaseModel):
    """All ID labels."""

    model_config = ConfigDict(extra="forbid")
    labels: Names


class LabelEdit(BaseModel):
    """ID labels to add and to remove."""

    model_config = ConfigDict(extra="forbid")
    add: Names = []
    remove: Names = []


def make_app(service: Service, *, max_body: int = MAX_BODY, hosts: Collection[str] = ()) -> FastAPI:
    """The ASGI application of a service; it closes the service, and so keeps its guard, when it ends.

    Args:
        service: whatever is asked for is done by it.
        max_body: bytes of a request that are taken.
        hosts: names by which it may be asked, besides IP addresses and localhost; see `tanl.serve.gate.Gate`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(service.close)

    # Swagger's page would load its scripts from elsewhere; the description alone is at /openapi.json.
    app = FastAPI(title="tanl", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Gate, max_body=max_body, hosts=hosts)  # type: ignore[arg-type]
    _add_routes(app, service)
    _add_errors(app)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    looking = CapacityLimiter(2)  # of its own: health is told while all threads judge

    @app.post("/judge")
    def judge(images: Images, source: Source = None) -> dict[str, Any]:
        """Judge images as one batch of the stream, and learn from it."""
        return service.judge(_read(images), source=source or None)

    @app.post("/score")
    def score(images: Images) -> dict[str, Any]:
        """The verdicts that /judge would give, without learning from the images."""
        return service.judge(_read(images), learn=False)

    @app.post("/calibrate")
    def calibrate(images: Images, tpr: Share = 0.95) -> dict[str, Any]:
        """Set the threshold from images that belong to the classes."""
        return service.calibrate(_read(images), tpr)

    @app.delete("/calibrate")
    def uncalibrate() -> dict[str, Any]:
        """Forget the threshold that was calibrated."""
        return service.uncalibrate()

    @app.get("/labels")
    def labels() -> dict[str, Any]:
        """The classes."""
        return service.labels()

    @app.put("/labels")
    def set_labels(wanted: Labels) -> dict[str, Any]:
        """Make these the classes."""
        return service.set_labels(wanted.labels)

    @app.post("/labels")
    def edit_labels(edit: LabelEdit) -> dict[str, Any]:
        """Add and remove classes."""
        return service.edit_labels(edit.add, edit.remove)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """How the stream, the threshold and the service are."""
        return await to_thread.run_sync(service.health, limiter=looking)


def _read(images: list[UploadFile]) -> list[Upload]:
    return [Upload(image.filename or "", image.file.read()) for image in images]


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, error: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": one_line(error)}, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "; ".join(map(_in_words, error.errors())))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, TooLarge):
            raise error.__cause__  # met in the middle of a form; told by the gate
        told = str(error.detail)
        if error.status_code in (404, 405):
            known = "/judge /score /labels /calibrate /health; GET /openapi.json describes them"
            told = f"{told}: {request.method} {request.url.path} is none of {known}"
        return answer(error.status_code, told, error.headers)

    # What the library raises for unusable input.
    @app.exception_handler(ValueError)
    @app.exception_handler(TypeError)
    async def unusable(request: Request, error: Exception) -> JSONResponse:
        _LOG.debug("refused %s %s", request.method, request.url.path, exc_info=error)
        return answer(422, str(error))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return answer(
            500, f"an error inside tanl, a {type(error).__name__}; the service's log has its traceback"
        )


def _in_words(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "body") or "the body"
    given = error.get("input")
    shown = f", not {given!r:.80}" if isinstance(given, str | int | float | bool) else ""
    hint = ""
    if place.startswith("images"):
        hint = "; send multipart/form-data with the image files in parts named images"
    elif place == "the body":
        hint = "; send JSON, with the header content-type: application/json"
    return f"{place}: {error['msg']}{shown}{hint}"
