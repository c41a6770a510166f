"""Giving up quality for speed, and taking it back."""

from __future__ import annotations

from deepseek_serving.degrade import LEAST_SECONDS, Degrade
from deepseek_serving.engines.echo import EchoEngine
from deepseek_serving.settings import DegradeSettings, Quantization


class TwoPrecisions(EchoEngine):
    """An engine that holds int8 and int4, as the transformers engine does with `degrade.quantization`."""

    def __init__(self) -> None:
        super().__init__()
        self.precision = "int8"

    def precisions(self) -> tuple[str, ...]:
        return ("int8", "int4")

    def set_precision(self, precision: str) -> None:
        self.precision = precision


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_begins_at_half_of_the_queue_and_ends_5_seconds_after_a_quarter_was_left() -> None:
    """40 places: on from 20 waiting, on while 10 or more wait, off 5 s after fewer than 10 did; each change once in the engine."""
    clock, engine = Clock(), TwoPrecisions()
    degrade = Degrade(DegradeSettings(max_output_tokens=64, quantization=Quantization.INT4), 40, clock=clock)
    seen = []
    for second, waiting in enumerate([0, 19, 20, 12, 10, 9, 9, 9, 9, 9, 9, 15, 20, 0, 0, 0, 0, 0, 0]):
        clock.now = 100.0 + second
        degrade.observe(waiting, engine)
        seen.append((degrade.active, engine.precision))
    assert LEAST_SECONDS == 5.0
    assert seen == [(False, "int8")] * 2 + [(True, "int4")] * 7 + [(False, "int8")] * 3 + [(True, "int4")] * 5 + [(False, "int8")] * 2


def test_an_answer_is_told_what_it_gives_up_and_only_that() -> None:
    """64 tokens at most: one of 200 is told so, one of 50 loses nothing but precision; nothing is told while the queue is short."""
    engine = TwoPrecisions()
    degrade = Degrade(DegradeSettings(max_output_tokens=64, quantization=Quantization.INT4), 4)
    assert (degrade.told(200, engine), degrade.most_tokens(200)) == ((), 200)
    degrade.observe(4, engine)
    assert (degrade.told(200, engine), degrade.most_tokens(200)) == (("max-output-tokens=64", "precision=int4"), 64)
    assert (degrade.told(50, engine), degrade.most_tokens(50)) == (("precision=int4",), 50)
    assert EchoEngine().precisions() == ("exact",)
    assert degrade.told(50, EchoEngine()) == ()


def test_without_leave_nothing_is_given_up() -> None:
    degrade = Degrade(DegradeSettings(), 4)
    degrade.observe(100, TwoPrecisions())
    assert not degrade.active
