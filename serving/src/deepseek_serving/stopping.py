"""Ends an answer at the first of some texts, though a text may arrive in pieces."""

from __future__ import annotations


class StopTexts:
    """Feed the pieces; what comes out holds none of `stops`, and holds back what may be the beginning of one.

    >>> stops = StopTexts(("END",))
    >>> stops.feed("the E"), stops.feed("ND of it"), stops.found
    ('the ', '', True)
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """The part of all that was fed which may be shown now."""
        if self.found:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        hits = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            self.found = True
            self._held = ""
            return text[: min(hits)]
        keep = max((size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, once nothing more can come."""
        held, self._held = self._held, ""
        return held
