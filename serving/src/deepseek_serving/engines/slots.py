"""Decodes several answers in one step: each has a slot (a row) in a common key-value cache, over the unmodified Hugging Face decoder.

The rows in use are always the first ones, so a step works on plain slices: when an answer ends, the last row moves into its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from deepseek_serving.engine import Sampling
from deepseek_serving.loading import Loaded

_BLOCK = 128
"""The cache grows by doubling, in multiples of this many tokens."""


class SlotCache:
    """Keys and values of all slots, per layer [slots, heads, tokens, width]; looks like a transformers Cache to the decoder's layers."""

    is_compileable = False

    def __init__(self, slots: int, context: int) -> None:
        self._slots = slots
        self._context = context
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self.lengths: list[int] = []
        self._positions = torch.empty(0, dtype=torch.long)
        self._seen = 0

    @property
    def rows(self) -> int:
        """Slots in use."""
        return len(self.lengths)

    def add(self, prefilled: DynamicCache, row_of_prefill: int, tokens: int) -> None:
        """Take a new row from one row of a prefill's cache."""
        layers: list[tuple[torch.Tensor, torch.Tensor]] = [(layer.keys, layer.values) for layer in prefilled.layers]  # type: ignore[union-attr, misc]
        self._reserve(tokens + 1, layers)
        row = self.rows
        for index, (keys, values) in enumerate(layers):
            self._keys[index][row, :, :tokens] = keys[row_of_prefill, :, :tokens]
            self._values[index][row, :, :tokens] = values[row_of_prefill, :, :tokens]
        self.lengths.append(tokens)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = self.rows - 1
        length = self.lengths.pop()
        if row != last:
            for store in (*self._keys, *self._values):
                store[row, :, :length] = store[last, :, :length]
            self.lengths[row] = length

    def begin_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for one more token in each row. Returns positions [rows, 1] and the mask [rows, 1, 1, longest], True where to look."""
        layers = list(zip(self._keys, self._values, strict=True))
        self._reserve(max(self.lengths) + 1, layers)
        self._positions = torch.tensor(self.lengths)
        self.lengths = [length + 1 for length in self.lengths]
        self._seen = max(self.lengths)
        mask = torch.arange(self._seen)[None, :] <= self._positions[:, None]
        return self._positions[:, None], mask[:, None, None, :]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by each attention layer with its newest keys and values [rows, heads, 1, width]; returns all of them so far."""
        rows = torch.arange(self.rows)
        self._keys[layer][rows, :, self._positions] = keys[:, :, 0]
        self._values[layer][rows, :, self._positions] = values[:, :, 0]
        return self._keys[layer][: self.rows, :, : self._seen], self._values[layer][: self.rows, :, : self._seen]

    def get_seq_length(self, layer: int = 0) -> int:
        """The longest row."""
        return max(self.lengths, default=0)

    def _reserve(self, tokens: int, like: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        room = self._keys[0].shape[2] if self._keys else 0
        if tokens <= room:
            return
        room = min(self._context, max(_BLOCK * -(-tokens // _BLOCK), 2 * room))
        for store, which in ((self._keys, 0), (self._values, 1)):
            for index, layer in enumerate(like):
                shape = layer[which].shape
                # Zeros, not whatever memory held: a masked NaN times zero is still NaN.
                grown = layer[which].new_zeros(self._slots, shape[1], room, shape[3])
                if index < len(store):
                    grown[:, :, : store[index].shape[2]] = store[index]
                    store[index] = grown
                else:
                    store.append(grown)


@dataclass(eq=False)
class Row:
    """One answer being decoded: its prompt (ids [1, tokens], pixels or None), how to sample, and the token to be fed next."""

    inputs: dict[str, torch.Tensor]
    sampling: Sampling
    next_token: int = -1
    generator: torch.Generator | None = field(default=None, repr=False)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, image tokens included."""
        return int(self.inputs["input_ids"].shape[1])


class SlotDecoder:
    """Prefills prompts and steps all answers together. Not thread-safe: one thread owns it. Raises whatever torch raises."""

    def __init__(self, loaded: Loaded, slots: int) -> None:
        self._model = loaded.model
        self._decoder = loaded.decoder
        self._embed = loaded.model.get_input_embeddings()
        self._head: torch.nn.Module = loaded.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._cache = SlotCache(slots, loaded.context)
        settings = loaded.model.generation_config
        self._temperature = float(settings.temperature or 1.0) if settings.do_sample else 0.0
        self._top_p = float(settings.top_p or 1.0) if settings.do_sample else 1.0
        self.slots = slots
        self.rows: list[Row] = []

    @property
    def free(self) -> int:
        """Slots without an answer."""
        return self.slots - len(self.rows)

    @torch.inference_mode()
    def prefill(self, rows: list[Row]) -> None:
        """Read prompts of one shape together, give each a slot, and choose each one's first token."""
        inputs = {name: torch.cat([row.inputs[name] for row in rows]) for name in rows[0].inputs}
        cache = DynamicCache()
        logits = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        tokens = self._choose(logits, rows)
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            self._cache.add(cache, index, row.prompt_tokens)
            row.next_token = token
            row.inputs = {"input_ids": row.inputs["input_ids"]}  # the pixels are read; they need not stay
            self.rows.append(row)

    @torch.inference_mode()
    def step(self) -> None:
        """Feed every answer its last token and choose the next."""
        tokens = self._choose(self._logits(), self.rows)
        for row, token in zip(self.rows, tokens, strict=True):
            row.next_token = token

    def remove(self, row: Row) -> None:
        """Free the slot of an answer that ended."""
        index = self.rows.index(row)
        self._cache.remove(index)
        last = self.rows.pop()
        if last is not row:
            self.rows[index] = last

    def clear(self) -> None:
        """Free all slots."""
        for row in list(self.rows):
            self.remove(row)

    @torch.inference_mode()
    def deviation(self, row: Row) -> float:
        """How far one batched step strays from the model's own whole pass over the same tokens: largest difference of log-probabilities.

        For a probe before the first request; leaves all slots free.
        """
        self.prefill([row])
        ids = torch.cat([row.inputs["input_ids"], torch.tensor([[row.next_token]])], 1)
        stepped = torch.log_softmax(self._logits()[0].float(), -1)
        whole = torch.log_softmax(self._model(input_ids=ids, use_cache=False).logits[0, -1].float(), -1)
        self.clear()
        return float((stepped.exp() * (stepped - whole).abs()).sum())

    def _logits(self) -> torch.Tensor:
        """[rows, vocabulary] after each row's last token."""
        ids = torch.tensor([[row.next_token] for row in self.rows])
        positions, mask = self._cache.begin_step()
        hidden = self._decoder(
            inputs_embeds=self._embed(ids), attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        logits: torch.Tensor = self._head(hidden[:, -1])
        return logits

    def _choose(self, logits: torch.Tensor, rows: list[Row]) -> list[int]:
        tokens: list[int] = logits.argmax(-1).tolist()
        for index, row in enumerate(rows):
            temperature = self._temperature if row.sampling.temperature is None else row.sampling.temperature
            if temperature > 0:
                tokens[index] = self._sample(logits[index].float() / temperature, row)
        return tokens

    def _sample(self, logits: torch.Tensor, row: Row) -> int:
        """Draw from the fewest likeliest tokens that together have probability `top_p`."""
        if row.generator is None:
            row.generator = torch.Generator()
            if row.sampling.seed is None:
                row.generator.seed()
            else:
                row.generator.manual_seed(row.sampling.seed)
        top_p = self._top_p if row.sampling.top_p is None else row.sampling.top_p
        chances, order = torch.softmax(logits, -1).sort(descending=True)
        chances[chances.cumsum(-1) - chances >= top_p] = 0
        return int(order[torch.multinomial(chances, 1, generator=row.generator)].item())
