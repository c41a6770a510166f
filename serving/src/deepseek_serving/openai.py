"""What a request may say, in the shapes of OpenAI's HTTP API, and the errors it is answered with. Types are strict: `"5"` is no number."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from deepseek_serving.chunking import ChunkSize
from deepseek_serving.engine import RequestError, Role, Sampling
from deepseek_serving.images import check_image_url

MOST_CHOICES = 8
"""Answers to one request: each takes a slot of its own."""

MOST_SCHEMA_BYTES = 65_536

PRIORITIES = {"auto": 0, "default": 0, "priority": 0, "scale": 0, "flex": -1}
"""OpenAI's service tiers as priorities: flex is its word for work that may wait."""


_FIELD = re.compile(r"(?!str$)[a-z_]{1,64}")


class _Asked(BaseModel):
    # Parameters that cannot change the answer (`user`, `metadata`, `store`, …) are ignored; those that would are refused by name below.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)


class TextPart(_Asked):
    """`{"type": "text", "text": "…"}`"""

    type: Literal["text"]
    text: str


class ImageUrl(_Asked):
    """The `data:` URL of a picture; `http(s):` only where the server fetches from that host."""

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


class JsonSchema(_Asked):
    """A named JSON schema; `strict` makes no difference: the answer always keeps to it."""

    name: str = Field(default="", max_length=64)
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")

    @field_validator("schema_")
    @classmethod
    def _is_no_novel(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(schema)) > MOST_SCHEMA_BYTES:
            raise ValueError(f"schema must be at most {MOST_SCHEMA_BYTES // 1024} KiB of JSON")
        return schema


class ResponseFormat(_Asked):
    """The shape of the answer: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_comes_with_its_type(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and only then")
        return self


_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": 200}
_STOP_SCHEMA = {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": 4}, {"type": "null"}]}


class _Request(_Asked):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    chunk_size: ChunkSize = Field(default=ChunkSize.TOKEN, description="Ours: what one event of a stream holds at least.")
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stop: Annotated[str | list[str] | None, WithJsonSchema(_STOP_SCHEMA)] = None
    priority: int | None = Field(
        default=None, ge=-100, le=100, description="Ours: larger goes first; below 0 is batch work, the first to be given up under overload."
    )
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None

    @property
    def sampling(self) -> Sampling:
        """The engine's part of it."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends, without them."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def urgency(self) -> int:
        """The priority asked for, in either way."""
        return self.priority if self.priority is not None else PRIORITIES[self.service_tier or "auto"]

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

    @field_validator("stop")
    @classmethod
    def _stops_are_few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > 4 or any(not 1 <= len(text) <= 200 for text in texts):
            raise ValueError("stop must be at most 4 texts of 1 to 200 characters")
        return stop


_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
}
"""Parameters that would change the answer, with the values that ask for nothing."""


class ChatRequest(_Request):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None

    @property
    def texts(self) -> list[str]:
        """Every text of every turn."""
        return [part.text for message in self.messages for part in message.parts if isinstance(part, TextPart)]

    @property
    def image_urls(self) -> list[str]:
        """Every picture's URL, in order."""
        return [part.image_url.url for message in self.messages for part in message.parts if isinstance(part, ImagePart)]

    @property
    def most_tokens(self) -> int | None:
        """The length asked for, in either word."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """How many likeliest tokens go with each token's own log-probability; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def schema_text(self) -> str | None:
        """The JSON schema of the answer, as JSON; None for free text."""
        if self.response_format is None or self.response_format.type == "text":
            return None
        given = self.response_format.json_schema
        return json.dumps(given.schema_ if given is not None else {"type": "object"})

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def check_images(self, most: int, *, remote: bool) -> None:
        """Raise RequestError for too many pictures or one whose URL cannot be one, without decoding or fetching any."""
        urls = self.image_urls
        if len(urls) > most:
            raise RequestError(f"A request may have at most {most} images, this one has {len(urls)}.", param="messages")
        for url in urls:
            if not (remote and is_remote(url)):
                check_image_url(url)


class CompletionRequest(_Request):
    """`POST /v1/completions`: one text to continue."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    response_format: None = None

    @property
    def texts(self) -> list[str]:
        """The prompt."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def image_urls(self) -> list[str]:
        """None: a continuation has no pictures."""
        return []

    @property
    def most_tokens(self) -> int | None:
        """The length asked for."""
        return self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """How many likeliest tokens go with each token's own log-probability; None: no log-probabilities."""
        return self.logprobs

    @property
    def schema_text(self) -> None:
        """Continuations are free text."""
        return None


def is_remote(url: str) -> bool:
    """Whether a picture's URL names another host."""
    return url[:8].lower().startswith(("http://", "https://"))


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape. `close`: the connection ends with it, because the rest of the request is unread."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if close:
            self.headers["Connection"] = "close"
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the client should change the request."""
    return ApiError(400, message, type="invalid_request_error", param=param, code=code)


def server_error() -> ApiError:
    """500: we should change the server. Says nothing about what broke: that is in the log."""
    return ApiError(500, "The server had an error while answering.", type="server_error", code="internal_error")


def unreadable(error: ValidationError) -> ApiError:
    """400 that names the first field that was wrong. What the client sent is not repeated: it may be 20 MiB, or private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return bad_request(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    # Pydantic names the branches of a union, too (`stop.constrained-str`, `content.list[…]`); a client knows none of them.
    param = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _FIELD.fullmatch(part))[:200] or None
    message = first["msg"].removeprefix("Value error, ")[:500]
    return bad_request(f"{param}: {message}" if param else message, param=param)
