"""Stop texts that arrive in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.stopping import StopTexts


@given(pieces=st.lists(st.text("ab", max_size=4), max_size=12), stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_however_a_text_is_cut_what_is_shown_ends_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    """What is shown is the text up to the stop that completes first, whatever the pieces; without a stop it is the whole text."""
    cut = StopTexts(tuple(stops))
    shown = "".join(cut.feed(piece) for piece in pieces)
    if not cut.found:
        shown += cut.rest()
    text = "".join(pieces)
    assert cut.found == any(stop in text for stop in stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not cut.found:
        assert shown == text


def test_a_beginning_that_comes_to_nothing_is_shown() -> None:
    cut = StopTexts(("END",))
    assert [cut.feed("the EN"), cut.feed("ORMOUS "), cut.feed("E"), cut.rest()] == ["the ", "ENORMOUS ", "", "E"]
