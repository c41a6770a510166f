"""Regroups a stream of tokens into words, sentences or paragraphs, for clients that would rather read than watch."""

from __future__ import annotations

import re
from enum import StrEnum


class ChunkSize(StrEnum):
    """What one event of a stream holds at least."""

    TOKEN = "token"  # noqa: S105 - a unit of text
    WORD = "word"
    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"


_ENDS = {
    ChunkSize.WORD: re.compile(r"\s+(?=\S)"),
    # A full stop within a number or an abbreviation has no blank behind it; Chinese and Japanese sentences never have one.
    ChunkSize.SENTENCE: re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=\S)|[。！？]+[”’」』）]*|\n+(?=\S)"),
    ChunkSize.PARAGRAPH: re.compile(r"\n[ \t]*\n\s*(?=\S)"),
}

MOST_HELD = 4096
"""Characters after which a chunk leaves though its end has not come: a text without blanks must not wait for ever."""


class Chunker:
    """Feed the pieces; out come whole units, in order, nothing lost and nothing added.

    >>> chunker = Chunker(ChunkSize.WORD)
    >>> chunker.feed("on"), chunker.feed("ce upon a t"), chunker.feed("ime"), chunker.rest()
    ('', 'once upon a ', '', 'time')
    """

    def __init__(self, size: ChunkSize) -> None:
        self._end = _ENDS.get(size)
        self._held = ""

    def feed(self, piece: str) -> str:
        """All units that are complete now."""
        if self._end is None:
            return piece
        text = self._held + piece
        ends = [match.end() for match in self._end.finditer(text)]
        at = ends[-1] if ends else 0
        if len(text) - at > MOST_HELD:
            at = len(text)
        self._held = text[at:]
        return text[:at]

    def rest(self) -> str:
        """What is left at the end."""
        held, self._held = self._held, ""
        return held
