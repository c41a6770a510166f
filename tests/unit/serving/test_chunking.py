"""Words, sentences and paragraphs out of pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.chunking import MOST_HELD, Chunker, ChunkSize

TEXT = 'It cost $3.50. "Really?" he asked.\nYes!  It did.\n\nA new paragraph, e.g. this one. 短句。又一句。End'


def chunks(size: ChunkSize, pieces: list[str]) -> list[str]:
    chunker = Chunker(size)
    return [chunk for chunk in [*(chunker.feed(piece) for piece in pieces), chunker.rest()] if chunk]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (ChunkSize.TOKEN, list(TEXT)),
        (
            ChunkSize.SENTENCE,
            [
                "It cost $3.50. ", '"Really?" ', "he asked.\n", "Yes!  ", "It did.\n\n", "A new paragraph, e.g. ", "this one. ",
                "短句。", "又一句。", "End",
            ],
        ),
        (ChunkSize.PARAGRAPH, [TEXT[: TEXT.index("A new")], TEXT[TEXT.index("A new") :]]),
        (ChunkSize.WORD, [word + " " for word in ["one", "two"]] + ["three"]),
    ],
)  # fmt: skip
def test_units_leave_when_they_are_complete(size: ChunkSize, expected: list[str]) -> None:
    """Character by character, so that every end comes alone."""
    text = "one two three" if size is ChunkSize.WORD else TEXT
    assert chunks(size, list(text)) == expected


@given(st.sampled_from(ChunkSize), st.lists(st.text(alphabet="ab .!?\n。", max_size=8)))
def test_nothing_is_lost_and_nothing_added(size: ChunkSize, pieces: list[str]) -> None:
    assert "".join(chunks(size, pieces)) == "".join(pieces)


def test_a_text_without_ends_does_not_wait_for_ever() -> None:
    """A word of 10,000 letters comes in pieces of at most 4,097."""
    parts = chunks(ChunkSize.WORD, ["x"] * 10_000)
    assert max(map(len, parts)) == MOST_HELD + 1
    assert sum(map(len, parts)) == 10_000
