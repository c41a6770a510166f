"""The HTTP side: OpenAI's routes over a Service. The same app runs inside Ray Serve and on a bare uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import traceback
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from deepseek_serving.admission import AdmissionError
from deepseek_serving.answers import Chunks, Head, Whole, error_event
from deepseek_serving.body import read_json
from deepseek_serving.contract import openapi
from deepseek_serving.engine import Delta, Generation, Message, Picture, RequestError, Structure
from deepseek_serving.keys import UnknownKeyError
from deepseek_serving.openai import ApiError, ChatRequest, CompletionRequest, TextPart, bad_request, server_error
from deepseek_serving.service import Order, Service
from deepseek_serving.streaming import EventStream
from deepseek_serving.structured import structure_of

log = logging.getLogger(__name__)

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)
Result = TypeVar("Result")

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What answers without a key: probes have none."""

Lifespan = Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]


def make_api(service: Service, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The FastAPI app of one service. `lifespan` starts and stops the service where Ray Serve does not."""
    app = FastAPI(title="deepseek-serving", docs_url=None, redoc_url=None, openapi_url="/openapi.json", lifespan=lifespan)
    app.openapi = lambda: openapi(service.settings)  # type: ignore[method-assign]  # FastAPI's documented way to give a schema of one's own
    app.add_middleware(_Door, service=service)
    app.add_exception_handler(Exception, _internal_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _unknown_route)
    app.add_exception_handler(ClientDisconnect, _left)

    @app.get("/healthz")
    async def healthz() -> Response:
        service.check_health()
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        return PlainTextResponse("ok\n") if service.ready else PlainTextResponse("the model is not loaded\n", status_code=503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(service)]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        _check_model(service, model)
        return _model_card(service)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _Exchange(service, await _read(request, ChatRequest, service)).respond(request)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _Exchange(service, await _read(request, CompletionRequest, service)).respond(request)

    return app


class _Door:
    """Lets nobody in without a valid key, where keys are asked for; who it is travels with the request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        address = (scope.get("client") or ("",))[0]
        try:
            # Two headers are as good as none: somebody else on the way may have read the other one.
            client = self._service.admit(given[0].decode("latin-1") if len(given) == 1 else None, address)
        except UnknownKeyError as refusal:
            error = ApiError(401, str(refusal), type="authentication_error", code="invalid_api_key")
        except AdmissionError as refusal:
            error = ApiError(429, str(refusal), type="rate_limit_error", code="too_many_failures", retry_after=refusal.retry_after_seconds)
        else:
            scope.setdefault("state", {})["client"] = client
            await self._app(scope, receive, send)
            return
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, asked: ChatRequest | CompletionRequest) -> None:
        self._service = service
        self._asked = asked
        chat = isinstance(asked, ChatRequest)
        self._head = Head(f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", int(time.time()), asked.model, chat)
        most = service.settings.serving.max_output_tokens
        self._max_tokens = min(asked.most_tokens or most, most)
        self._structure: Structure | None = None

    async def respond(self, request: Request) -> Response:
        """Answer whole or as a stream; a client that leaves cancels it. Raises ApiError."""
        try:
            return await self._respond(request)
        except (ApiError, ClientDisconnect):
            raise
        except Exception as error:
            log.error("request %s failed: %s", self._head.id, _where(error))
            raise server_error() from None

    async def _respond(self, request: Request) -> Response:
        asked, service = self._asked, self._service
        with _as_api_errors():
            self._check()
            if (schema := asked.schema_text) is not None:
                self._structure = await asyncio.to_thread(structure_of, schema)
        order = Order(
            self._prepare,
            kind="image" if asked.image_urls else "text",
            client=request.state.client,
            priority=asked.urgency,
            patience_seconds=_patience(request),
        )
        deltas = service.answer(order)
        if not asked.stream:
            body = await _unless_disconnected(request, self._whole(deltas))
            return Response(status_code=499) if body is None else JSONResponse(body, headers=_told(order))
        # The first delta comes before the headers: whatever can be refused is refused with a status, not in mid-stream.
        first = await _unless_disconnected(request, _first(deltas))
        if first is None:
            return Response(status_code=499)
        return EventStream(self._stream(first, deltas), deltas, headers=_told(order))

    def _check(self) -> None:
        """Raise RequestError for what can be seen to be too much before anything is decoded, fetched or queued."""
        asked, limits = self._asked, self._service.settings.serving
        if isinstance(asked, ChatRequest):
            asked.check_images(limits.max_images_per_request, remote=self._service.pictures.remote)
        characters = sum(len(text) for text in asked.texts)
        if characters > limits.max_prompt_characters:
            message = f"The texts have {characters} characters; at most {limits.max_prompt_characters} are read."
            raise RequestError(message, code="context_length_exceeded", param="messages" if self._head.chat else "prompt")

    async def _prepare(self, held: AsyncExitStack) -> Generation:
        asked = self._asked
        messages: tuple[Message, ...] = ()
        if isinstance(asked, ChatRequest):
            pictures = iter(await held.enter_async_context(self._service.pictures.loaded(asked.image_urls)))
            messages = tuple(
                Message(
                    message.engine_role,
                    tuple[str | Picture, ...](part.text if isinstance(part, TextPart) else next(pictures) for part in message.parts),
                )
                for message in asked.messages
            )
        return Generation(
            self._head.id,
            messages,
            self._max_tokens,
            prefix="" if self._head.chat else asked.texts[0],
            sampling=asked.sampling,
            n=asked.n or 1,
            stop=asked.stops,
            top_logprobs=asked.logprobs_asked,
            structure=self._structure,
        )

    async def _whole(self, deltas: AsyncGenerator[Delta, None]) -> dict[str, Any]:
        whole = Whole(self._head, n=self._asked.n or 1, logprobs=self._asked.logprobs_asked is not None)
        with _as_api_errors():
            async with aclosing(deltas) as stream:
                async for delta in stream:
                    whole.add(delta)
        return whole.body()

    async def _stream(self, first: Delta, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[bytes, None]:
        asked = self._asked
        chunks = Chunks(
            self._head,
            n=asked.n or 1,
            logprobs=asked.logprobs_asked is not None,
            include_usage=asked.include_usage,
            size=asked.chunk_size,
        )
        async with aclosing(deltas) as rest:
            try:
                if opening := chunks.first() + chunks.of(first):
                    yield opening
                async for delta in rest:
                    if events := chunks.of(delta):
                        yield events
            except Exception as error:
                log.error("request %s broke off: %s", self._head.id, _where(error))
                yield error_event(server_error().body)
                return
        yield chunks.last()


async def _read(request: Request, shape: type[Asked], service: Service) -> Asked:
    """The body as `shape`, for the model that is here. Raises ApiError."""
    asked = await read_json(request, shape, most_mebibytes=service.settings.serving.max_body_mebibytes)
    _check_model(service, asked.model)
    return asked


def _check_model(service: Service, model: str) -> None:
    if model != service.settings.served_name:
        message = f"The model {model[:200]!r} does not exist here; this server has {service.settings.served_name!r}."
        raise ApiError(404, message, type="invalid_request_error", param="model", code="model_not_found")


def _model_card(service: Service) -> dict[str, Any]:
    return {"id": service.settings.served_name, "object": "model", "created": service.started_at, "owned_by": "deepseek-serving"}


def _patience(request: Request) -> float | None:
    """How long the client says it will wait for its turn: the header `x-max-queue-seconds`; anything but a positive number is not a wish."""
    try:
        seconds = float(request.headers.get("x-max-queue-seconds", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _told(order: Order) -> dict[str, str]:
    return {"x-degraded": ", ".join(order.degraded)} if order.degraded else {}


@contextlib.contextmanager
def _as_api_errors() -> Iterator[None]:
    """Refusals in the service's words become answers in OpenAI's."""
    try:
        yield
    except RequestError as refusal:
        raise bad_request(str(refusal), param=refusal.param, code=refusal.code) from None
    except AdmissionError as refusal:
        kind, code = ("rate_limit_error", "overloaded") if refusal.status == 429 else ("server_error", "unavailable")
        raise ApiError(refusal.status, str(refusal), type=kind, code=code, retry_after=refusal.retry_after_seconds) from None


async def _first(deltas: AsyncGenerator[Delta, None]) -> Delta:
    with _as_api_errors():
        return await anext(deltas)


async def _unless_disconnected(request: Request, work: Awaitable[Result]) -> Result | None:
    """The result of `work`; or None, and `work` cancelled, when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for leftover in (task, gone):
            if not leftover.done():
                leftover.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leftover


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unknown_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"There is no {request.method} {request.url.path[:200]} here."
    body = ApiError(error.status_code, message, type="invalid_request_error", code="unknown_url").body
    return JSONResponse(body, error.status_code, error.headers)


async def _internal_error(_request: Request, error: Exception) -> Response:
    log.error("a request failed: %s", _where(error))
    failed = server_error()
    return JSONResponse(failed.body, failed.status)


def _where(error: BaseException) -> str:
    """An error for the log: its class and its frames, never its words, which may hold what a client sent."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{type(error).__name__}\n{frames}"
