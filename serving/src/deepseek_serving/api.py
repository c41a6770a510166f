"""The HTTP side: OpenAI's routes over a Service. The same app runs inside Ray Serve and on a bare uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from deepseek_serving.admission import AdmissionError
from deepseek_serving.engine import Delta, FinishReason, Generation, Message, Picture, RequestError
from deepseek_serving.images import decode_image
from deepseek_serving.openai import (
    DONE,
    ApiError,
    ChatRequest,
    Chunks,
    CompletionRequest,
    TextPart,
    bad_request,
    chat_answer,
    completion_answer,
    event,
    unreadable,
    usage_of,
)
from deepseek_serving.service import Preparation, Service

log = logging.getLogger(__name__)

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)
Result = TypeVar("Result")

_BIG_BODY_BYTES = 65_536
"""Above this a body is parsed in a thread: 1 MiB of JSON holds the event loop for a few milliseconds."""

Lifespan = Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]


def make_api(service: Service, *, lifespan: Lifespan | None = None) -> FastAPI:
    """The FastAPI app of one service. `lifespan` starts and stops the service where Ray Serve does not."""
    app = FastAPI(title="deepseek-serving", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(Exception, _internal_error)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _unknown_route)

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
        asked = await _read(request, ChatRequest, service)
        try:
            asked.check_images(service.settings.serving.max_images_per_request)
        except RequestError as refusal:
            raise bad_request(str(refusal), param=refusal.param, code=refusal.code) from None
        exchange = _Exchange(service, asked, "chatcmpl", asked.max_completion_tokens or asked.max_tokens)
        return await exchange.respond(request, lambda: _chat(asked, exchange), kind="image" if asked.image_urls else "text")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await _read(request, CompletionRequest, service)
        exchange = _Exchange(service, asked, "cmpl", asked.max_tokens)

        async def prepare() -> Generation:
            return Generation(exchange.id, (), exchange.max_tokens, asked.prompt, asked.sampling)

        return await exchange.respond(request, prepare, kind="text")

    return app


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, asked: ChatRequest | CompletionRequest, prefix: str, max_tokens: int | None) -> None:
        self.service = service
        self.asked = asked
        self.chat = isinstance(asked, ChatRequest)
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        most = service.settings.serving.max_output_tokens
        self.max_tokens = min(max_tokens or most, most)

    async def respond(self, request: Request, prepare: Preparation, *, kind: str) -> Response:
        deltas = self.service.answer(prepare, kind=kind, stops=self.asked.stops)
        if not self.asked.stream:
            body = await _unless_disconnected(request, self._whole(deltas))
            return Response(status_code=499) if body is None else JSONResponse(body)
        # The first delta comes before the headers: whatever can be refused is refused with a status, not in mid-stream.
        first = await _unless_disconnected(request, _first(deltas))
        if first is None:
            return Response(status_code=499)
        return _EventStream(self._stream(first, deltas), deltas)

    async def _whole(self, deltas: AsyncGenerator[Delta, None]) -> dict[str, Any]:
        pieces: list[str] = []
        prompt_tokens = tokens = 0
        finish: FinishReason = "stop"
        with _as_api_errors():
            async with aclosing(deltas) as stream:
                async for delta in stream:
                    pieces.append(delta.text)
                    tokens += delta.tokens
                    prompt_tokens = delta.prompt.tokens if delta.prompt else prompt_tokens
                    finish = delta.finish or finish
        shape = chat_answer if self.chat else completion_answer
        return shape(self.id, self.created, self.asked.model, "".join(pieces), finish, usage_of(prompt_tokens, tokens))

    async def _stream(self, first: Delta, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[bytes, None]:
        chunks = Chunks(self.id, self.created, self.asked.model, chat=self.chat, include_usage=self.asked.include_usage)
        prompt_tokens = tokens = 0
        async with aclosing(deltas) as rest:
            if opening := chunks.first():
                yield opening
            try:
                async for delta in _chained(first, rest):
                    tokens += delta.tokens
                    prompt_tokens = delta.prompt.tokens if delta.prompt else prompt_tokens
                    if delta.text:
                        yield chunks.text(delta.text)
                    if delta.finish:
                        yield chunks.finish(delta.finish)
            except Exception:
                log.exception("request %s broke off", self.id)
                yield event(_server_error().body)
                return
        if self.asked.include_usage:
            yield chunks.usage(usage_of(prompt_tokens, tokens))
        yield DONE


class _EventStream(StreamingResponse):
    """Closes its deltas however it ends, also when the client left before the first byte: that frees the request's place at once."""

    def __init__(self, events: AsyncGenerator[bytes, None], deltas: AsyncGenerator[Delta, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._to_close = (events, deltas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._to_close:
                await generator.aclose()


async def _chat(asked: ChatRequest, exchange: _Exchange) -> Generation:
    """Decode the pictures (in a thread: a big one takes a tenth of a second) and put the turns into the engine's words."""
    megapixels = exchange.service.settings.serving.max_image_megapixels

    def build() -> tuple[Message, ...]:
        messages = []
        for message in asked.messages:
            parts: list[str | Picture] = [
                part.text if isinstance(part, TextPart) else decode_image(part.image_url.url, max_megapixels=megapixels)
                for part in message.parts
            ]
            messages.append(Message(message.engine_role, tuple(parts)))
        return tuple(messages)

    messages = await asyncio.to_thread(build) if asked.image_urls else build()
    return Generation(exchange.id, messages, exchange.max_tokens, sampling=asked.sampling)


async def _read(request: Request, shape: type[Asked], service: Service) -> Asked:
    """The body as `shape`, read no further than allowed. Raises ApiError."""
    most = service.settings.serving.max_body_mebibytes * 2**20
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            message = f"The body must be at most {service.settings.serving.max_body_mebibytes} MiB."
            raise ApiError(413, message, type="invalid_request_error", code="request_too_large")
    try:
        big = len(body) > _BIG_BODY_BYTES
        asked = await asyncio.to_thread(shape.model_validate_json, bytes(body)) if big else shape.model_validate_json(bytes(body))
    except ValidationError as error:
        raise unreadable(error) from None
    _check_model(service, asked.model)
    return asked


def _check_model(service: Service, model: str) -> None:
    if model != service.settings.served_name:
        message = f"The model {model[:200]!r} does not exist here; this server has {service.settings.served_name!r}."
        raise ApiError(404, message, type="invalid_request_error", param="model", code="model_not_found")


def _model_card(service: Service) -> dict[str, Any]:
    return {"id": service.settings.served_name, "object": "model", "created": service.started_at, "owned_by": "deepseek-serving"}


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


async def _chained(first: Delta, rest: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in rest:
        yield delta


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


def _server_error() -> ApiError:
    return ApiError(500, "The server had an error while answering.", type="server_error", code="internal_error")


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _unknown_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"There is no {request.method} {request.url.path[:200]} here."
    body = ApiError(error.status_code, message, type="invalid_request_error", code="unknown_url").body
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _internal_error(_request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    failed = _server_error()
    return JSONResponse(failed.body, status_code=failed.status)
