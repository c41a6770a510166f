"""Gives up quality for speed while the queue is long, where the settings allow it, and takes it back when it is short again."""

from __future__ import annotations

import logging
import time

from deepseek_serving.engine import Clock, Engine
from deepseek_serving.settings import DegradeSettings

log = logging.getLogger(__name__)

LEAST_SECONDS = 5.0
"""How long it lasts at least: precision that changes with every request would be neither the one nor the other."""


class Degrade:
    """Begins when `at_queue_percent` of the queue's `standing` places are in use, ends `LEAST_SECONDS` after half of that were."""

    def __init__(self, settings: DegradeSettings, standing: int, *, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._at = max(1.0, settings.at_queue_percent / 100 * standing)
        self._clock = clock
        self._crowded_at = -LEAST_SECONDS
        self.active = False

    @property
    def offered(self) -> bool:
        """Whether the settings allow anything at all."""
        return self._settings.max_output_tokens is not None or self._settings.quantization is not None

    def observe(self, waiting: int, engine: Engine) -> None:
        """Called with each arrival and twice a second."""
        if not self.offered:
            return
        now = self._clock()
        if waiting >= self._at or (self.active and waiting >= self._at / 2):
            self._crowded_at = now
        active = now - self._crowded_at < LEAST_SECONDS
        if active != self.active:
            self.active = active
            self._choose_precision(engine)
            log.info("%s: %d requests wait", "quality steps down" if active else "full quality again", waiting)

    def most_tokens(self, asked: int) -> int:
        """The length that an answer may have if it begins now."""
        most = self._settings.max_output_tokens
        return min(asked, most) if self.active and most is not None else asked

    def told(self, asked: int, engine: Engine) -> tuple[str, ...]:
        """What an answer that begins now gives up: `max-output-tokens=64`, `precision=int4`."""
        if not self.active:
            return ()
        most, precisions = self.most_tokens(asked), engine.precisions()
        return (
            *([f"max-output-tokens={most}"] if most < asked else []),
            *([f"precision={precisions[-1]}"] if len(precisions) > 1 else []),
        )

    def _choose_precision(self, engine: Engine) -> None:
        precisions = engine.precisions()
        if len(precisions) > 1:
            engine.set_precision(precisions[-1] if self.active else precisions[0])
