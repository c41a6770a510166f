"""The batch: answers that are being written, and behind them prompts that are being read, all rows of one slot store.

Rows 0 … `writing` − 1 are stepped together; the rows after them are read in pieces, so that a long prompt holds the writers up only briefly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from deepseek_serving.engines.choosing import NOTHING_YET, Choice, Taste, choose
from deepseek_serving.engines.decoders import Decoder
from deepseek_serving.engines.store import SlotStore
from deepseek_serving.loading import Loaded

LONGEST_HOLD_SECONDS = 0.1
"""How long reading may hold up the answers being written, between two of their tokens."""

LONGEST_READ_SECONDS = 0.5
"""How long reading may go on at a stretch when nothing is being written: nobody who comes or leaves waits longer."""

_LEAST_TOKENS = 32
_FIRST_GUESS_TOKENS_PER_SECOND = 500.0
_PICTURES_AT_ONCE = 16


@dataclass(eq=False)
class Prompt:
    """What is to be read, once however many answers it gets: token ids [tokens] and the pictures' pixels, by the vision tower's own names."""

    ids: torch.Tensor
    pixels: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    features: torch.Tensor | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Length, image tokens included."""
        return len(self.ids)

    @property
    def pictures(self) -> int:
        """How many pictures the vision tower still has to look at."""
        return len(next(iter(self.pixels.values()))) if self.pixels else 0


@dataclass(eq=False)
class Row:
    """One answer: its prompt, how its tokens are chosen, how many tokens its row of the store holds, and the newest choice."""

    prompt: Prompt
    taste: Taste
    held: int = 0
    choice: Choice = NOTHING_YET

    @property
    def unread(self) -> int:
        """Tokens of the prompt still to be read."""
        return max(0, self.prompt.tokens - self.held)


class Batch:
    """Not thread-safe: one thread owns it. Raises whatever torch or the decoder raises."""

    def __init__(self, loaded: Loaded, decoder: Decoder, store: SlotStore) -> None:
        self._loaded = loaded
        self._embed: torch.nn.Module = loaded.model.get_input_embeddings()
        self._device = loaded.device
        self._store = store
        self.decoder = decoder
        self.rows: list[Row] = []
        self.writing = 0
        self._tokens_per_second = _FIRST_GUESS_TOKENS_PER_SECOND

    @property
    def free(self) -> int:
        """Slots without an answer."""
        return self._store.slots - len(self.rows)

    @property
    def reading(self) -> list[Row]:
        """Rows whose prompt is not wholly read."""
        return self.rows[self.writing :]

    @property
    def usage(self) -> float:
        """Tokens held, by all that could be held."""
        return sum(row.held for row in self.rows) / (self._store.slots * self._store.context)

    def enter(self, rows: list[Row]) -> None:
        """Give each a slot. Prompts of one length end up side by side, to be read together."""
        self.rows += sorted(rows, key=lambda row: (row.prompt.tokens, id(row.prompt)))

    @torch.inference_mode()
    def read(self) -> list[Row]:
        """Read a piece of the prompts that wait, for as long as may be; return the rows that now have their first token."""
        if not self.reading:
            return []
        began = time.monotonic()
        seconds = LONGEST_HOLD_SECONDS if self.writing else LONGEST_READ_SECONDS
        ready, tokens = [], 0
        while self.reading and not (tokens and time.monotonic() - began > seconds / 2):
            left = seconds - (time.monotonic() - began)
            group = self._next_group(max(_LEAST_TOKENS, int(left * self._tokens_per_second)))
            if self._look(group) and time.monotonic() - began > seconds:
                break
            reading_since = time.monotonic()
            ready += self._read(group)
            count = sum(count for _, count in group)
            tokens += count
            speed = count / max(time.monotonic() - reading_since, 1e-4)
            self._tokens_per_second += 0.3 * (speed - self._tokens_per_second)
        return ready

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Feed every answer being written its last token and choose the next."""
        rows = self.rows[: self.writing]
        ids = torch.tensor([[row.choice.token] for row in rows], device=self._device)
        logits = self.decoder.run(0, self._embed(ids), [row.held for row in rows], [1] * len(rows))
        for row in rows:
            row.held += 1
        self._choose(logits, rows)
        return rows

    @torch.inference_mode()
    def remove(self, row: Row) -> None:
        """Free the slot of an answer: the last writer takes its place, and the last reader that one's."""
        hole = self.rows.index(row)
        if hole < self.writing:
            self.writing -= 1
            self._move(self.writing, hole)
            hole = self.writing
        self._move(len(self.rows) - 1, hole)
        self.rows.pop()

    def clear(self) -> None:
        """Free all slots."""
        self.rows.clear()
        self.writing = 0

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._store.copy(source, target, self.rows[source].held)
            self.rows[target] = self.rows[source]

    def _next_group(self, budget: int) -> list[tuple[int, int]]:
        """(row number, tokens to read) of rows side by side that one pass can take, the first reader among them, within the budget."""
        first = self.writing
        group = [(first, min(budget, self.rows[first].unread))]
        for number in range(first + 1, len(self.rows)):
            row, before = self.rows[number], self.rows[number - 1]
            budget_left = budget - sum(count for _, count in group)
            if row.prompt is before.prompt or row.unread > budget_left:
                break  # a twin gets its row by copying
            trial = [*group, (number, row.unread)]
            if not self.decoder.reads_together([self.rows[index].held for index, _ in trial], [count for _, count in trial]):
                break
            group = trial
        return group

    def _look(self, group: list[tuple[int, int]]) -> bool:
        """Have the vision tower look at the group's pictures, those of one shape together. Says whether there were any."""
        waiting = [self.rows[number].prompt for number, _ in group if self.rows[number].prompt.pixels]
        if not waiting:
            return False
        # Prompts further back are read soon; their pictures are cheaper now, in one pass.
        known = {id(prompt) for prompt in waiting}
        for row in self.reading:
            if row.prompt.pixels and id(row.prompt) not in known:
                known.add(id(row.prompt))
                waiting.append(row.prompt)
        shape = _shape(waiting[0])
        together: list[Prompt] = []
        pictures = 0
        for prompt in waiting:
            if _shape(prompt) == shape and (not together or pictures + prompt.pictures <= _PICTURES_AT_ONCE):
                together.append(prompt)
                pictures += prompt.pictures
        features = self._loaded.see({name: torch.cat([prompt.pixels[name] for prompt in together]) for name in together[0].pixels})
        for prompt, part in zip(together, torch.split(features, [prompt.pictures for prompt in together]), strict=True):
            prompt.features = part.reshape(-1, part.shape[-1])
            prompt.pixels = {}  # seen; they need not stay
        return True

    def _read(self, group: list[tuple[int, int]]) -> list[Row]:
        # Side by side they must stay: nothing behind a picture that was not looked at yet.
        group = list(takewhile(lambda part: not self.rows[part[0]].prompt.pixels, group))
        first, rows, counts = group[0][0], [self.rows[number] for number, _ in group], [count for _, count in group]
        pieces = [self._embeddings(row, count) for row, count in zip(rows, counts, strict=True)]
        embeddings = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        logits = self.decoder.run(first, embeddings, [row.held for row in rows], counts)
        ready: list[Row] = []
        for row, count, row_logits in zip(rows, counts, logits, strict=True):
            row.held += count
            if row.unread:
                continue
            finished = [row]
            for number, twin in enumerate(self.reading, start=self.writing):
                if twin is not row and twin.prompt is row.prompt:
                    self._store.copy(self.rows.index(row), number, row.held)
                    twin.held = row.held
                    finished.append(twin)
            self._choose(row_logits.expand(len(finished), -1), finished)
            ready += finished
        for row in ready:
            self._begin_writing(row)
        return ready

    def _begin_writing(self, row: Row) -> None:
        """Put a row that was read behind the writers."""
        place = self.rows.index(row)
        if place != self.writing:
            other = self.rows[self.writing]
            self._store.exchange(place, row.held, self.writing, other.held)
            self.rows[self.writing], self.rows[place] = row, other
        self.writing += 1

    def _embeddings(self, row: Row, count: int) -> torch.Tensor:
        """[count, width] of the prompt's next tokens; the pictures' features stand where their tokens are."""
        prompt = row.prompt
        ids = prompt.ids[row.held : row.held + count].to(self._device)
        embeddings: torch.Tensor = self._embed(ids)
        if prompt.features is not None:
            places = torch.eq(ids, self._loaded.image_token or 0)
            before = int(torch.eq(prompt.ids[: row.held], self._loaded.image_token or 0).sum())
            embeddings = embeddings.clone()
            embeddings[places] = prompt.features[before : before + int(places.sum())].to(embeddings.dtype)
        return embeddings

    @staticmethod
    def _choose(logits: torch.Tensor, rows: list[Row]) -> None:
        for row, choice in zip(rows, choose(logits, [row.taste for row in rows]), strict=True):
            row.choice = choice


def _shape(prompt: Prompt) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(tensor.shape[1:])) for name, tensor in sorted(prompt.pixels.items()))
