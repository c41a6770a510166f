"""Keys and values of all slots, one row each in plain tensors: any decoder goes on where another one left off."""

from __future__ import annotations

import torch

_BLOCK = 128
"""The store grows by doubling, in multiples of this many tokens."""


class SlotStore:
    """Per layer, keys [slots, heads, room, width] and values [slots, heads, room, width of values]; `room` grows up to what is asked for."""

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.room = 0
        self.dtype: torch.dtype | None = None
        """What layers hold; None: what the decoder gives them. To be set before the first layer."""

    def reserve(self, tokens: int) -> None:
        """Make room for rows of that many tokens. Tensors that grow are replaced: hold none of them across this call."""
        if tokens <= self.room:
            return
        # Doubling keeps copies few; past the context a row only holds padding, never more of it than one read.
        self.room = max(tokens, min(self.context, max(_BLOCK * -(-tokens // _BLOCK), 2 * self.room)))
        for kept in (self.keys, self.values):
            for layer, old in enumerate(kept):
                # Zeros, not whatever memory held: a masked NaN times zero is still NaN.
                kept[layer] = old.new_zeros(self.slots, old.shape[1], self.room, old.shape[3])
                kept[layer][:, :, : old.shape[2]] = old

    def add_layer(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Make the next layer's tensors, for keys and values like these ([rows, heads, tokens, width])."""
        for kept, like in ((self.keys, keys), (self.values, values)):
            kept.append(like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3], dtype=self.dtype or like.dtype))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first tokens over another row's."""
        if source != target:
            for tensor in (*self.keys, *self.values):
                tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def exchange(self, one: int, tokens_of_one: int, other: int, tokens_of_other: int) -> None:
        """Let two rows change places."""
        for tensor in (*self.keys, *self.values):
            kept = tensor[one, :, :tokens_of_one].clone()
            tensor[one, :, :tokens_of_other] = tensor[other, :, :tokens_of_other]
            tensor[other, :, :tokens_of_one] = kept

    @property
    def bytes(self) -> int:
        """Memory that it takes now."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))
