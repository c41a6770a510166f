"""What every engine can do: take a request and stream its answers, stop one, finish all, and tell how busy it is.

Who does what: the engine chooses tokens, turns them into text, ends answers (stop texts, length, end token) and frees their slots. Admission,
deadlines, pacing and the caps on output length happen in front of it; an engine takes everything it is given and orders it by `priority`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
    """How the next token is chosen. `None` leaves it to the checkpoint's own generation settings.

    `seed` repeats a whole request: its answer number i draws from a generator of its own, made from `seed` and i.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


class TokenFilter(Protocol):
    """One answer's own rule for which tokens may come next. Called by the decoding thread only, in the order restrict, accept, restrict, …"""

    def restrict(self, logits: Any) -> Any:
        """Logits [vocabulary] (torch, float32, on the CPU) → the same shape, refused tokens at −inf. May change them in place."""
        ...

    def accept(self, token: int) -> None:
        """This token was chosen."""
        ...

    @property
    def finished(self) -> bool:
        """The answer is whole: the engine ends it with finish reason stop."""
        ...


@dataclass(frozen=True)
class Structure:
    """The shape an answer must have: a JSON schema, as JSON text. `{}` allows any JSON value.

    vLLM reads the schema itself; the transformers engine calls `make_filter(tokenizer, vocabulary)` once for each answer, in its preparing
    thread: the Hugging Face tokenizer, and how many logits the model gives. It may raise RequestError.
    """

    json_schema: str
    make_filter: Callable[[Any, int], TokenFilter] = field(repr=False)


@dataclass(frozen=True)
class Generation:
    """One request as an engine sees it. `prefix` is raw text to continue (no chat template) when `messages` is empty.

    `n` answers share one prompt, which is read once. `stop`: texts at which an answer ends, themselves left out. `top_logprobs`: with each
    token the log-probability of it and of that many likeliest others (0: of the token only; None: none). `priority`: among requests that wait
    for a slot, the larger goes first, equals in the order of arrival.
    """

    request_id: str
    messages: tuple[Message, ...]
    max_tokens: int
    prefix: str = ""
    sampling: Sampling = Sampling()
    n: int = 1
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    structure: Structure | None = None
    priority: int = 0

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
class Chance:
    """A token as text, and the natural logarithm of its probability before temperature and top_p, at least −9999."""

    text: str
    logprob: float


@dataclass(frozen=True)
class TokenChances:
    """The chosen token, and the likeliest ones in falling order (as many as were asked for; the chosen one may be among them)."""

    chosen: Chance
    top: tuple[Chance, ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of answer number `index`. The request's first one carries `prompt`, each answer's last one `finish`.

    `text` may be empty while a character is incomplete or the beginning of a stop text is held back. `logprobs` has an entry for each of the
    `tokens`, where they were asked for.
    """

    text: str
    tokens: int = 1
    prompt: PromptSize | None = None
    finish: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenChances, ...] = ()


@dataclass(frozen=True)
class EngineStats:
    """How busy the engine is now. `running` and `waiting` count answers (a request with n = 3 counts 3).

    `busy_seconds` never falls: seconds since the start in which it computed. `cache_usage`: share of the room for keys and values in use, 0..1.
    `precision`: in which the next step decodes, one of `precisions()`.
    """

    running: int
    waiting: int
    slots: int
    busy_seconds: float
    cache_usage: float = 0.0
    precision: str = ""


@dataclass(frozen=True)
class StartupParts:
    """Seconds that the parts of an engine's start took; `warming_up` includes compiling."""

    importing: float = 0.0
    loading: float = 0.0
    quantizing: float = 0.0
    warming_up: float = 0.0


class Engine(Protocol):
    """Lives on one event loop; heavy work is its own threads' business."""

    async def start(self) -> StartupParts:
        """Load the model and answer one probe. Raises LoadError when the model cannot be served as asked."""
        ...

    def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """Stream the answers, their deltas mixed as they come; ends after the last one's `finish`.

        The first step raises RequestError when the request can never be answered (too long, pictures unwanted, n not offered), a later one
        EngineError when the engine breaks. Closing the iterator early cancels the request.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop that request, all its answers; their slots are free after at most one batch step. Its iterator ends without `finish`.

        Unknown ids are ignored: it may just have ended.
        """
        ...

    async def drain(self) -> None:
        """Return when every submitted request has ended. New ones are still accepted: refusing them is admission's part."""
        ...

    def stats(self) -> EngineStats:
        """Cheap; may be called at any time after construction."""
        ...

    def precisions(self) -> tuple[str, ...]:
        """The precisions this engine can decode in without loading anything, the one it was asked for first; lower ones are faster.

        More than one only where the settings ask for a second one to be held (`degrade`).
        """
        ...

    def set_precision(self, precision: str) -> None:
        """Decode in that precision from the next batch step on, running answers included. Raises ValueError for one not offered."""
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
