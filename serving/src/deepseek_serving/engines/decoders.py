"""Runs a text decoder over rows of a slot store: the unmodified Hugging Face module here, an ONNX Runtime graph in `graph.py`."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from deepseek_serving.engines.store import SlotStore


class Decoder(Protocol):
    """One precision of a decoder with its output layer. Not thread-safe: one thread owns it and the store."""

    def run(self, first: int, embeddings: torch.Tensor, starts: list[int], counts: list[int]) -> torch.Tensor:
        """Feed the rows first, first + 1, … of the store; return the logits [rows, vocabulary] after each row's last new token.

        `embeddings` [rows, tokens, width] is padded on the right; row i has `counts[i]` new tokens, which follow its `starts[i]` known ones.
        """
        ...

    def reads_together(self, starts: list[int], counts: list[int]) -> bool:
        """Whether rows with these known and new tokens may go into one `run`."""
        ...

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The modules that hold its weights, if modules do."""
        ...

    packed_bytes: int
    """Weights held elsewhere."""


class Window:
    """The store's rows that one pass works on; looks like a transformers Cache to the decoder's layers.

    `positions` [rows, tokens] of the pass' own tokens; `seen`: tokens of the longest row, these included.
    """

    is_compileable = False

    def __init__(self, store: SlotStore, first: int, positions: torch.Tensor, seen: int) -> None:
        self._store = store
        self._rows = slice(first, first + positions.shape[0])
        self.positions = positions
        self.seen = seen

    def layer(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """That layer's keys and values of all slots."""
        return self._store.keys[number], self._store.values[number]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by each attention layer with its newest keys and values [rows, heads, tokens, width]; returns all of them so far."""
        if layer == len(self._store.keys):
            self._store.add_layer(keys, values)
        return put_and_get(*self.layer(layer), keys, values, self._rows, self.positions, self.seen)

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens of the longest row."""
        return self.seen


def put_and_get(
    all_keys: torch.Tensor,
    all_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: slice,
    positions: torch.Tensor,
    seen: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a layer's newest keys and values at their positions into these rows; return the rows' first `seen` ones, in the newest's type."""
    numbers = torch.arange(rows.start, rows.stop, device=positions.device)[:, None]
    all_keys[numbers, :, positions] = keys.transpose(1, 2).to(all_keys.dtype)
    all_values[numbers, :, positions] = values.transpose(1, 2).to(all_values.dtype)
    return all_keys[rows, :, :seen].to(keys.dtype), all_values[rows, :, :seen].to(values.dtype)


class TorchDecoder:
    """The decoder's own class, on whatever device its weights are."""

    def __init__(self, decoder: torch.nn.Module, head: torch.nn.Module, store: SlotStore) -> None:
        self.packed_bytes = 0
        self._decoder = decoder
        self._head = head
        self._store = store

    def run(self, first: int, embeddings: torch.Tensor, starts: list[int], counts: list[int]) -> torch.Tensor:
        rows, tokens, _ = embeddings.shape
        seen = max(starts) + tokens
        self._store.reserve(seen)
        device = embeddings.device
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(tokens, device=device)
        hidden = self._forward(first, embeddings, positions, seen)
        whole = all(count == tokens for count in counts)
        last = hidden[:, -1] if whole else hidden[torch.arange(rows, device=device), torch.tensor(counts, device=device) - 1]
        logits: torch.Tensor = self._head(last)
        return logits

    def _forward(self, first: int, embeddings: torch.Tensor, positions: torch.Tensor, seen: int) -> torch.Tensor:
        """[rows, tokens, width] of hidden states; `positions` [rows, tokens], `seen` tokens of the longest row with these."""
        return self._run_layers(self._decoder, first, embeddings, positions, seen)

    def _run_layers(self, decoder: torch.nn.Module, first: int, embeddings: torch.Tensor, positions: torch.Tensor, seen: int) -> torch.Tensor:
        hidden: torch.Tensor = decoder(
            inputs_embeds=embeddings,
            attention_mask=torch.arange(seen, device=embeddings.device) <= positions[:, None, :, None],
            position_ids=positions,
            past_key_values=Window(self._store, first, positions, seen),
            use_cache=True,
        ).last_hidden_state
        return hidden

    def reads_together(self, starts: list[int], counts: list[int]) -> bool:
        # Padding is computed like tokens: at most half as much again is worth one pass less.
        return len(counts) * max(counts) <= 1.5 * sum(counts)

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self._decoder, self._head)
