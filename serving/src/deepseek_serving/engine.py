"""What every engine can do: take a request and stream its answer, stop one, finish all, and tell how busy it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Picture:
    """A picture that passed the checks: 8-bit RGB, rows from the top."""

    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One turn of the conversation; text and pictures in the order in which they were sent."""

    role: Role
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `None` leaves it to the checkpoint's own generation settings."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """One request as an engine sees it. `prefix` is raw text to continue (no chat template) when `messages` is empty."""

    request_id: str
    messages: tuple[Message, ...]
    max_tokens: int
    prefix: str = ""
    sampling: Sampling = Sampling()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures of all turns, in order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Picture))


@dataclass(frozen=True)
class PromptSize:
    """Tokens of the prompt; `image` of them stand for pictures."""

    tokens: int
    image: int = 0


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The first one carries `prompt`, the last one `finish`; `text` may be empty while a character is incomplete."""

    text: str
    tokens: int = 1
    prompt: PromptSize | None = None
    finish: FinishReason | None = None


@dataclass(frozen=True)
class EngineStats:
    """How busy the engine is now. `busy_seconds` never falls: seconds since the start in which it computed."""

    running: int
    waiting: int
    slots: int
    busy_seconds: float


@dataclass(frozen=True)
class StartupParts:
    """Seconds that the parts of an engine's start took."""

    importing: float = 0.0
    loading: float = 0.0
    warming_up: float = 0.0


class Engine(Protocol):
    """Lives on one event loop; heavy work is its own threads' business."""

    async def start(self) -> StartupParts:
        """Load the model and answer one probe. Raises LoadError when the model cannot be served as asked."""
        ...

    def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """Stream the answer. The first step raises RequestError when the request can never be answered (too long, pictures unwanted).

        ClosingError the iterator early cancels the request.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop that request; its slot is free after at most one batch step. Unknown ids are ignored: it may just have ended."""
        ...

    async def drain(self) -> None:
        """Return when every submitted request has ended. New ones are still accepted: refusing them is admission's part."""
        ...

    def stats(self) -> EngineStats:
        """Cheap; may be called at any time after construction."""
        ...

    def check_health(self) -> None:
        """Raise EngineError when the engine cannot answer any more and its replica should be replaced."""
        ...

    async def close(self) -> None:
        """Stop everything, running requests included, and free the memory."""
        ...


class LoadError(RuntimeError):
    """The model cannot be served as asked; the words say why and what is allowed."""


class EngineError(RuntimeError):
    """The engine broke while running; the replica is to be replaced."""


class RequestError(ValueError):
    """This request can never be answered. `code` and `param` are OpenAI's."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def context_exceeded(prompt_tokens: int, context: int) -> RequestError:
    """The prompt leaves no room for an answer."""
    return RequestError(
        f"This model's maximum context length is {context} tokens, one of them for the answer; the messages have {prompt_tokens}.",
        code="context_length_exceeded",
        param="messages",
    )


Clock = Callable[[], float]
"""Monotonic seconds."""
