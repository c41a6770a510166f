"""Chooses each answer's next token from its logits: the likeliest, or a drawn one; within a structure, if one was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from deepseek_serving.engine import Sampling, TokenFilter

_LEAST_LOGPROB = -9999.0


@dataclass
class Taste:
    """How one answer's tokens are chosen; `temperature` 0 takes the likeliest. `top_logprobs` None: no log-probabilities are reckoned."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None
    filter: TokenFilter | None = None
    _generator: torch.Generator | None = field(default=None, repr=False)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is all that is wanted."""
        return self.temperature <= 0 and self.top_logprobs is None and self.filter is None

    @property
    def generator(self) -> torch.Generator:
        """This answer's own chance."""
        if self._generator is None:
            self._generator = torch.Generator()
            if self.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.seed)
        return self._generator

    @staticmethod
    def of(sampling: Sampling, index: int, default: Sampling, top_logprobs: int | None, filter: TokenFilter | None) -> Taste:
        """The taste of answer number `index`; what `sampling` leaves open comes from `default`."""
        temperature = default.temperature if sampling.temperature is None else sampling.temperature
        top_p = default.top_p if sampling.top_p is None else sampling.top_p
        # Answers of one seed differ, and the first of several is the one that n = 1 gives. 2^63 − 1 is the largest seed torch takes.
        seed = None if sampling.seed is None else (sampling.seed + index) % (2**63)
        return Taste(temperature or 0.0, 1.0 if top_p is None else top_p, seed, top_logprobs, filter)


@dataclass(frozen=True)
class Choice:
    """A token, and (token, log-probability) of it and of the likeliest ones, where they were asked for."""

    token: int
    chosen: tuple[int, float] | None = None
    top: tuple[tuple[int, float], ...] = ()


NOTHING_YET = Choice(-1)


def choose(logits: torch.Tensor, tastes: list[Taste]) -> list[Choice]:
    """One choice for each row of `logits` [rows, vocabulary]."""
    likeliest: list[int] = logits.argmax(-1).tolist()
    return [
        Choice(token) if taste.plain else _choose(logits[row].float().cpu(), taste)
        for row, (token, taste) in enumerate(zip(likeliest, tastes, strict=True))
    ]


def _choose(logits: torch.Tensor, taste: Taste) -> Choice:
    chances = torch.log_softmax(logits, -1) if taste.top_logprobs is not None else None
    allowed = taste.filter.restrict(logits) if taste.filter is not None else logits
    token = _draw(allowed / taste.temperature, taste) if taste.temperature > 0 else int(allowed.argmax())
    if taste.filter is not None:
        taste.filter.accept(token)
    if chances is None:
        return Choice(token)
    values, tokens = chances.topk(min(taste.top_logprobs or 0, len(chances)))
    top = tuple((number, max(value, _LEAST_LOGPROB)) for number, value in zip(tokens.tolist(), values.tolist(), strict=True))
    return Choice(token, (token, max(float(chances[token]), _LEAST_LOGPROB)), top)


def _draw(logits: torch.Tensor, taste: Taste) -> int:
    """Draw from the fewest likeliest tokens that together have probability `top_p`."""
    chances, order = torch.softmax(logits, -1).sort(descending=True)
    chances[chances.cumsum(-1) - chances >= taste.top_p] = 0
    return int(order[torch.multinomial(chances, 1, generator=taste.generator)].item())
