"""What answers look like: whole, or as the events of a stream; for chats and for continuations; with n choices and log-probabilities."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from deepseek_serving.chunking import Chunker, ChunkSize
from deepseek_serving.engine import Chance, Delta, FinishReason, TokenChances

DONE = b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + _json(data) + b"\n\n"


def error_event(body: dict[str, Any]) -> bytes:
    """What ends a stream that broke off after its headers were sent: an event of its own type, and no [DONE] after it."""
    return b"event: error\ndata: " + _json(body) + b"\n\n"


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


@dataclass(frozen=True)
class Head:
    """What every chunk of an answer repeats."""

    id: str
    created: int
    model: str
    chat: bool

    def fields(self, *, chunk: bool) -> dict[str, Any]:
        """As the beginning of a JSON object."""
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass
class Usage:
    """Token counts of one request, all its answers together."""

    prompt: int = 0
    image: int = 0
    completion: int = 0

    def add(self, delta: Delta) -> None:
        """Count one piece."""
        self.completion += delta.tokens
        if delta.prompt:
            self.prompt, self.image = delta.prompt.tokens, delta.prompt.image

    def fields(self) -> dict[str, Any]:
        """In OpenAI's words; `image_tokens` is part of the prompt's."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": self.image},
        }


@dataclass
class _Choice:
    pieces: list[str] = field(default_factory=list)
    chances: list[TokenChances] = field(default_factory=list)
    finish: FinishReason = "stop"


class Whole:
    """Collects an answer's pieces."""

    def __init__(self, head: Head, *, n: int, logprobs: bool) -> None:
        self._head = head
        self._logprobs = logprobs
        self._choices = [_Choice() for _ in range(n)]
        self.usage = Usage()

    def add(self, delta: Delta) -> None:
        """One more piece."""
        choice = self._choices[delta.index]
        choice.pieces.append(delta.text)
        choice.chances += delta.logprobs
        choice.finish = delta.finish or choice.finish
        self.usage.add(delta)

    def body(self) -> dict[str, Any]:
        """The answer."""
        choices = [self._choice(index, choice) for index, choice in enumerate(self._choices)]
        return {**self._head.fields(chunk=False), "choices": choices, "usage": self.usage.fields()}

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text = "".join(choice.pieces)
        if self._head.chat:
            logprobs = chat_logprobs(choice.chances) if self._logprobs else None
            message = {"role": "assistant", "content": text, "refusal": None}
            return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}
        logprobs = completion_logprobs(choice.chances) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}


class Chunks:
    """The events of one stream. What is the same in all of them is written once: a token's event is three pieces put together."""

    def __init__(self, head: Head, *, n: int, logprobs: bool, include_usage: bool, size: ChunkSize = ChunkSize.TOKEN) -> None:
        self._head = head
        self._logprobs = logprobs
        self._include_usage = include_usage
        self.usage = Usage()
        opening = _json({**head.fields(chunk=True), "choices": []})[:-2]
        # With include_usage every chunk but the last says `usage: null`, as OpenAI's do.
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        before = b'"delta":{"content":' if head.chat else b'"text":'
        self._starts = [b"data: " + opening + b'{"index":%d,' % index for index in range(n)]
        self._texts = [start + before for start in self._starts]
        self._after = (b"}" if head.chat else b"") + b',"logprobs":null,"finish_reason":null' + self._end
        self._chunkers = [Chunker(size) for _ in range(n)]
        self._held: list[list[TokenChances]] = [[] for _ in range(n)]
        self._plain = size is ChunkSize.TOKEN and not logprobs

    def first(self) -> bytes:
        """Who speaks, for every choice; continuations have no such chunk."""
        if not self._head.chat:
            return b""
        return b"".join(self._event(index, {"delta": {"role": "assistant", "content": ""}}, None) for index in range(len(self._starts)))

    def of(self, delta: Delta) -> bytes:
        """The events of one piece; empty while a unit is incomplete."""
        self.usage.add(delta)
        index, text = delta.index, delta.text
        if self._plain:
            events = self._texts[index] + json.dumps(text).encode() + self._after if text else b""
        else:
            self._held[index] += delta.logprobs
            text = self._chunkers[index].feed(text)
            if delta.finish:
                text += self._chunkers[index].rest()
            events = self._with_chances(index, text) if text or (delta.finish and self._held[index]) else b""
        if delta.finish:
            events += self._event(index, {"delta": {}} if self._head.chat else {"text": ""}, delta.finish)
        return events

    def last(self) -> bytes:
        """What ends the stream."""
        if not self._include_usage:
            return DONE
        return event({**self._head.fields(chunk=True), "choices": [], "usage": self.usage.fields()}) + DONE

    def _with_chances(self, index: int, text: str) -> bytes:
        chances, self._held[index] = self._held[index], []
        piece = {"delta": {"content": text}} if self._head.chat else {"text": text}
        if not self._logprobs:
            return self._event(index, piece, None)
        return self._event(index, piece, None, chat_logprobs(chances) if self._head.chat else completion_logprobs(chances))

    def _event(self, index: int, piece: dict[str, Any], finish: FinishReason | None, logprobs: dict[str, Any] | None = None) -> bytes:
        inner = _json({**piece, "logprobs": logprobs, "finish_reason": finish})[1:-1]
        return self._starts[index] + inner + self._end


def chat_logprobs(chances: list[TokenChances]) -> dict[str, Any]:
    """Log-probabilities in the shape of chats."""
    content = [{**_chance(each.chosen), "top_logprobs": [_chance(other) for other in each.top]} for each in chances]
    return {"content": content, "refusal": None}


def _chance(chance: Chance) -> dict[str, Any]:
    return {"token": chance.text, "logprob": chance.logprob, "bytes": list(chance.text.encode("utf-8", "replace"))}


def completion_logprobs(chances: list[TokenChances]) -> dict[str, Any]:
    """Log-probabilities in the shape of continuations; offsets count characters of these tokens' text."""
    offsets, at = [], 0
    for each in chances:
        offsets.append(at)
        at += len(each.chosen.text)
    return {
        "tokens": [each.chosen.text for each in chances],
        "token_logprobs": [each.chosen.logprob for each in chances],
        "top_logprobs": [{other.text: other.logprob for other in each.top} for each in chances],
        "text_offset": offsets,
    }
