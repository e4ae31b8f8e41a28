"""The HTTP endpoint as an ASGI application: routes, limits, errors. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from robust.serve_config import ServeConfig
from robust.serving.access import Access
from robust.serving.answer import About, Answer, Error, answer
from robust.serving.errors import ServiceError, error_document
from robust.serving.judging import UploadJudge
from robust.serving.page import page, page_policy
from robust.serving.shield import Shield
from robust.serving.upload import MIB, Upload, clean_name, kind_of_upload, receive, require_acceptable

DESCRIPTION = """Says of a video or photograph whether its face is a deepfake.

Send the file itself as the body. A file without a face is answered with the verdict `undecided` and the reason."""
ERRORS = {
    400: "an empty body or a bad parameter", 401: "no token, or a wrong one", 403: "not from this machine",
    408: "the file did not arrive in time", 411: "no Content-Length", 413: "too large", 415: "a form instead of a file",
    422: "no video or image that can be read", 503: "busy, or no room; see Retry-After", 504: "judging took too long",
}
BODY = {"requestBody": {"required": True, "content": {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


def build_app(judge: UploadJudge, about: About, config: ServeConfig, access: Access) -> FastAPI:
    """The endpoint around a judge.

    Args:
        about: what its verdicts are given with.
    """
    app = FastAPI(title="Deepfake detection", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None,
                  redirect_slashes=False)  # a redirect is made of the Host header, and its client would send file and token there
    app.add_middleware(Shield)
    seats = _Seats(config.queue)
    limit = int(config.max_upload_mb * MIB)

    @app.post("/v1/detect", response_model=Answer, openapi_extra=BODY, summary="The verdict on one file",
              responses={status: {"model": Error, "description": told} for status, told in ERRORS.items()})
    async def detect(
        request: Request,
        name: Annotated[str | None, Query(max_length=1000, description="what the file is called")] = None,
        pictures: Annotated[bool, Query(description="with the sampled frames")] = False,
    ) -> JSONResponse:
        access.require(request.headers)
        require_acceptable(request.headers, limit)
        deadline = time.monotonic() + config.timeout_s
        with seats:
            upload = await _received(request, limit, deadline)
            shown = clean_name(name)
            examination = await judge.examine(
                upload, name=shown, kind=kind_of_upload(shown, upload.head), deadline=deadline)
            return JSONResponse(await asyncio.to_thread(answer, examination, about, pictures=pictures))

    @app.get("/healthz", summary="Whether it is up")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page(), headers={"content-security-policy": page_policy()})

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return JSONResponse(error.as_dict(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return JSONResponse(error_document(400, told), 400)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_document(error.status_code, str(error.detail)), error.status_code, error.headers)

    return app


class _Seats:
    """So many requests at a time; the next ones are told to come again, and none is kept waiting."""

    def __init__(self, number: int):
        self.free = number

    def __enter__(self) -> None:
        if self.free < 1:
            raise ServiceError(503, "all hands are busy; try again in some seconds", retry_after="5", connection="close")
        self.free -= 1

    def __exit__(self, *_) -> None:
        self.free += 1


async def _received(request: Request, limit: int, deadline: float) -> Upload:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await receive(request.stream(), limit)
    except TimeoutError:
        raise ServiceError(408, "the file did not arrive in time (serve.timeout_s)", connection="close") from None
    except ClientDisconnect:
        raise ServiceError(400, "the connection ended before the file did") from None
