"""The endpoints of the service; FastAPI is needed to import this module."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from cffa_hf.errors import InputError
from cffa_hf.search import Gallery
from cffa_hf.service.description import description_page
from cffa_hf.service.exchange import Rejection
from cffa_hf.service.forms import ImageSearchRequest
from cffa_hf.service.gate import Gate
from cffa_hf.service.limits import RateLimiter
from cffa_hf.service.measures import Measures
from cffa_hf.service.messages import (
    Answer,
    EmbedRequest,
    EmbedResponse,
    Found,
    Health,
    ItemId,
    Options,
    Problem,
    SearchRequest,
    SearchResponse,
)
from cffa_hf.service.service import Service
from cffa_hf.service.settings import ServiceSettings
from cffa_hf.service.work import ImageQuery, LikeQuery, Outcome, Query, TextQuery, Wanted
from cffa_hf.version import VERSION

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in (
        (401, "No key, or a wrong one."),
        (413, "Too large."),
        (422, "A mistake in the request."),
        (429, "Too many requests of this client; Retry-After says when."),
        (503, "Too many queries wait, or it took too long, or the service ends; Retry-After says when."),
    )
}
IMAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=300"}
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}

closed = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False, description="A key."))], responses=PROBLEMS)
open_to_all = APIRouter()


def application(gallery: Gallery, settings: ServiceSettings) -> FastAPI:
    """Make the application, as `create_app` says."""
    measures = Measures()
    service = Service(gallery, settings, measures)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="cffa-hf",
        summary="Find a person in a gallery of camera images from a sentence.",
        version=VERSION,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(closed)
    app.include_router(open_to_all)
    app.add_middleware(Gate, settings=settings, measures=measures, limiter=RateLimiter(settings.requests_per_minute))
    for kind, handler in (
        (RequestValidationError, _mistake),
        (InputError, _refusal),
        (Rejection, _rejection),
        (HTTPException, _http_error),
        (Exception, _failure),
    ):
        app.add_exception_handler(kind, handler)
    return app


def the_service(request: Request) -> Service:
    """Return the service of the application that a request came to."""
    return request.app.state.service


TheService = Annotated[Service, Depends(the_service)]


@closed.post("/search", summary="Rank the gallery by sentences, or by an image of it")
async def search(body: SearchRequest, request: Request, service: TheService) -> SearchResponse:
    """Return the best images for each sentence, or those most like an image of the gallery."""
    wanted = wanted_of(body)
    query: Query = TextQuery(tuple(body.texts), wanted) if body.like is None else LikeQuery(body.like, wanted)
    return _response(body.texts or [None], await service.ask(query, request))


@closed.post("/search/image", summary="Rank the gallery by an image, alone or with a sentence")
async def search_image(
    form: Annotated[ImageSearchRequest, Form(media_type="multipart/form-data")],
    request: Request,
    service: TheService,
) -> SearchResponse:
    """Return the images of the gallery that are most like an uploaded one, and fit the sentence if there is one."""
    picture = await service.read_upload(await form.image.read())
    query = ImageQuery(picture, form.text, form.text_weight, wanted_of(form))
    return _response([form.text], await service.ask(query, request))


@closed.post("/embed", summary="Turn sentences into unit vectors")
async def embed(body: EmbedRequest, request: Request, service: TheService) -> EmbedResponse:
    """Return the vectors whose dot products with those of images are the scores of a search."""
    outcome = await service.ask(TextQuery(tuple(body.texts), None), request)
    vectors = outcome.vectors.tolist() if outcome.vectors is not None else []
    return EmbedResponse(width=len(vectors[0]), vectors=vectors, truncated=outcome.truncated)


@closed.get("/images/{item}", summary="The file of an image of the gallery", response_class=FileResponse)
async def image_file(item: Annotated[ItemId, Path()], service: TheService) -> FileResponse:
    """Send the file of an image that a search found; no other file is sent."""
    try:
        path, kind = await run_in_threadpool(service.image_file, item)
    except InputError as error:
        raise HTTPException(404, str(error)) from None
    return FileResponse(path, media_type=kind, headers=IMAGE_HEADERS)


@closed.get("/metrics", summary="Counters in the text format of Prometheus")
async def metrics(service: TheService) -> Response:
    """Return what the service counts."""
    return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@closed.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """Return the description of the service for programs."""
    return JSONResponse(request.app.openapi())


@closed.get("/docs", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """Return the description of the service for readers; it loads nothing."""
    return HTMLResponse(description_page(request.app.openapi()), headers=PAGE_HEADERS)


@open_to_all.get("/health", summary="Whether requests are taken", responses={503: {"model": Health}})
async def health(request: Request, response: Response, service: TheService) -> Health:
    """Return `ready`, or `draining` with status 503; the gallery is described to those who may search it."""
    if service.draining:
        response.status_code = 503
    description = service.gallery.describe() if request.state.admitted else None
    return Health(status="draining" if service.draining else "ready", gallery=description)


def wanted_of(options: Options) -> Wanted:
    """Return what a request wants of the ranked images."""
    return Wanted(options.k, options.conditions(), options.minimum_score)


def _response(queries: list[Any], outcome: Outcome) -> SearchResponse:
    answers = [
        Answer(
            query=query,
            truncated=truncated,
            results=[
                Found(id=found.id, path=_encodable(found.path), score=found.score, metadata=dict(found.metadata))
                for found in results
            ],
        )
        for query, truncated, results in zip(queries, outcome.truncated, outcome.results, strict=True)
    ]
    return SearchResponse(answers=answers)


def _problem(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": _encodable(sentence)}, status, headers)


async def _mistake(_: Request, error: Any) -> JSONResponse:
    """Name the first mistake; of the forms that a field may have, that which fits best."""
    mistake = max(error.errors(), key=lambda entry: (not entry["type"].endswith("_type"), len(entry["loc"])))
    where = [str(part)[:100] for part in mistake["loc"][1:2]]
    what = mistake["msg"].removeprefix("Value error, ").rstrip(".")
    return _problem(422, f"The request is refused ({': '.join([*where, what])}).")


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    return _problem(422, str(error))


async def _rejection(request: Request, rejection: Any) -> JSONResponse:
    the_service(request).measures.refused.labels(rejection.reason).inc()
    return _problem(rejection.status, str(rejection), rejection.headers)


async def _http_error(_: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, f"{error.detail.rstrip('.')}.", error.headers)


async def _failure(_: Request, error: Exception) -> JSONResponse:
    # The server hangs up after a failure; without being told, a client could send its next request into that.
    return _problem(500, "The service failed at this request; its log says why.", {"Connection": "close"})


def _encodable(text: str) -> str:
    """Replace halves of characters, which names of files and hostile JSON may hold, and no answer can."""
    return text.encode("utf-8", "replace").decode("utf-8")
