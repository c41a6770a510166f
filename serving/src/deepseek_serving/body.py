"""Reads a request's body no further than allowed: by length, by time, by form, by the work of parsing it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from deepseek_serving.openai import ApiError, bad_request, unreadable

BODY_SECONDS = 30.0
"""A body that takes longer to come is a client that holds on, not one that sends: 20 MiB in 30 s are 0.7 MiB/s."""

_LINGER_SECONDS = 1.0

MOST_STRUCTURE = 200_000
"""Commas, colons and brackets in a body: parsing that many takes about 20 ms, a million of them would stop every stream for a while."""

_BIG_BODY_BYTES = 65_536
"""Above this a body is parsed in a thread: 1 MiB of JSON holds the event loop for a few milliseconds."""

_JSON_TYPE = re.compile(r"application/([\w.+-]*\+)?json\s*(;|$)", re.IGNORECASE)

Asked = TypeVar("Asked", bound=BaseModel)


async def read_json(request: Request, shape: type[Asked], *, most_mebibytes: int) -> Asked:
    """The body as `shape`. Raises ApiError, and ClientDisconnect when the client leaves."""
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise ApiError(415, f"Send the body as it is, not as {encoding[:40]!r}.", type="invalid_request_error", code="unsupported_encoding")
    kind = request.headers.get("content-type")
    if kind is not None and not _JSON_TYPE.match(kind.strip()):
        raise ApiError(415, "The Content-Type must be application/json.", type="invalid_request_error", code="unsupported_media_type")
    body = await _whole(request, most_mebibytes)
    if sum(body.count(mark) for mark in b",:[{") > MOST_STRUCTURE:
        raise bad_request(f"The body is too complex: at most {MOST_STRUCTURE} commas, colons and brackets are allowed.")
    try:
        if len(body) > _BIG_BODY_BYTES:
            return await asyncio.to_thread(shape.model_validate_json, body)
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise unreadable(error) from None


async def _whole(request: Request, most_mebibytes: int) -> bytes:
    most = most_mebibytes * 2**20
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told[:20]) > most:
        await _throw_away(request)
        raise _too_large(most_mebibytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    del body
                    await _throw_away(request)
                    raise _too_large(most_mebibytes)
    except TimeoutError:
        raise ApiError(
            408, f"The body did not come within {BODY_SECONDS:g} s.", type="invalid_request_error", code="request_timeout", close=True
        ) from None
    return bytes(body)


async def _throw_away(request: Request) -> None:
    """Read on for a moment and keep nothing: a client whose connection closes while it still sends sees a reset instead of our answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            async for _ in request.stream():
                pass


def _too_large(most_mebibytes: int) -> ApiError:
    message = f"The body must be at most {most_mebibytes} MiB."
    return ApiError(413, message, type="invalid_request_error", code="request_too_large")
