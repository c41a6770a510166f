"""The shapes of OpenAI's HTTP API: what a request may say, and what answers, chunks and errors look like."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deepseek_serving.engine import FinishReason, RequestError, Role, Sampling
from deepseek_serving.images import check_image_url


class _Asked(BaseModel):
    # Parameters that cannot change the answer (`user`, `metadata`, `store`, …) are ignored; those that would are refused by name below.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TextPart(_Asked):
    """`{"type": "text", "text": "…"}`"""

    type: Literal["text"]
    text: str


class ImageUrl(_Asked):
    """The `data:` URL of a picture."""

    url: str


class ImagePart(_Asked):
    """`{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}`"""

    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ChatMessage(_Asked):
    """One turn; `developer` is today's word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]

    @property
    def engine_role(self) -> Role:
        """The role in the engine's words."""
        return _ROLES[self.role]

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content as a list of parts, whichever way it was sent."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content)


class StreamOptions(_Asked):
    """`include_usage` adds a last chunk with the token counts."""

    include_usage: bool = False


class _Request(_Asked):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    n: int | None = None

    @property
    def sampling(self) -> Sampling:
        """The engine's part of it."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends, without them."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_would_change_the_answer(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, harmless in _UNSUPPORTED.items():
                if data.get(name) not in (None, *harmless):
                    raise ValueError(f"{name} is not supported by this server; leave it out")
        return data

    @model_validator(mode="after")
    def _stops_are_few_and_not_empty(self) -> _Request:
        if len(self.stops) > 4 or any(not stop or len(stop) > 200 for stop in self.stops):
            raise ValueError("stop must be at most 4 texts of 1 to 200 characters")
        return self


_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "prediction": (),
    "audio": (),
}
"""Parameters that would change the answer, with the values that ask for nothing."""


class ChatRequest(_Request):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def image_urls(self) -> list[str]:
        """Every picture's URL, in order."""
        return [part.image_url.url for message in self.messages for part in message.parts if isinstance(part, ImagePart)]

    def check_images(self, most: int) -> None:
        """Raise RequestError for too many pictures or one that is no data URL, without decoding any."""
        urls = self.image_urls
        if len(urls) > most:
            raise RequestError(f"A request may have at most {most} images, this one has {len(urls)}.", param="messages")
        for url in urls:
            check_image_url(url)


class CompletionRequest(_Request):
    """`POST /v1/completions`: one text to continue."""

    prompt: str


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, type: str, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the client should change the request."""
    return ApiError(400, message, type="invalid_request_error", param=param, code=code)


def unreadable(error: ValidationError) -> ApiError:
    """400 that names the first field that was wrong. What the client sent is not repeated: it may be 20 MiB, or private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return bad_request(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    param = ".".join(str(part) for part in first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    return bad_request(f"{param}: {message}" if param else message, param=param)


def chat_answer(id: str, created: int, model: str, text: str, finish: FinishReason, usage: dict[str, int]) -> dict[str, Any]:
    """The whole answer of a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": finish}
    return {"id": id, "object": "chat.completion", "created": created, "model": model, "choices": [choice], "usage": usage}


def completion_answer(id: str, created: int, model: str, text: str, finish: FinishReason, usage: dict[str, int]) -> dict[str, Any]:
    """The whole continuation of a text."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": id, "object": "text_completion", "created": created, "model": model, "choices": [choice], "usage": usage}


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts of one answer."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


class Chunks:
    """Server-sent events of one stream, in the shape of chats or of completions."""

    def __init__(self, id: str, created: int, model: str, *, chat: bool, include_usage: bool) -> None:
        self._chat = chat
        self._head: dict[str, Any] = {
            "id": id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
        }
        # With include_usage every chunk but the last says `usage: null`, as OpenAI's do.
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}

    def first(self) -> bytes | None:
        """Who speaks; completions have no such chunk."""
        return self._event({"role": "assistant", "content": ""}, None) if self._chat else None

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._event({"content": text} if self._chat else text, None)

    def finish(self, reason: FinishReason) -> bytes:
        """Why it ended."""
        return self._event({} if self._chat else "", reason)

    def usage(self, usage: dict[str, int]) -> bytes:
        """The token counts."""
        return event({**self._head, "choices": [], "usage": usage})

    def _event(self, piece: dict[str, str] | str, finish: FinishReason | None) -> bytes:
        choice = {"index": 0, "delta" if self._chat else "text": piece, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "choices": [choice], **self._tail})


DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
