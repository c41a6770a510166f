"""Runs a decoder's graph (`llama_graph.py`) by ONNX Runtime over the rows of a slot store, without copying keys or values."""

from __future__ import annotations

from pathlib import Path

import numpy
import onnxruntime  # type: ignore[import-untyped]
import torch

from deepseek_serving.engines.store import SlotStore
from deepseek_serving.stored import GRAPH_FILE, WEIGHTS_FILE, Dimensions


class GraphDecoder:
    """See `Decoder`. The store must hold float32 on the CPU."""

    def __init__(self, folder: Path, dimensions: Dimensions, store: SlotStore, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the core from whoever computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
        self._dimensions = dimensions
        self._store = store
        self.packed_bytes = (folder / WEIGHTS_FILE).stat().st_size
        self._binding = self._session.io_binding()
        self._bound: tuple[int, int, int, int] | None = None

    def run(self, first: int, embeddings: torch.Tensor, starts: list[int], counts: list[int]) -> torch.Tensor:
        rows, tokens, _ = embeddings.shape
        self._make_layers()
        # The operator wants to know the longest row of the pass, and takes a pass that begins at 0 for a first one.
        longest = max(start + tokens for start in starts)
        self._store.reserve(longest)
        self._bind_rows(first, rows)
        inputs = {
            "embeddings": embeddings.to(torch.float32).contiguous(),
            "last": torch.tensor(counts)[:, None] - 1,
            "known": torch.tensor([start + count - 1 for start, count in zip(starts, counts, strict=True)], dtype=torch.int32),
            "longest": torch.tensor(longest, dtype=torch.int32),
        }
        logits = torch.empty(rows, self._dimensions.vocabulary)
        for name, tensor in inputs.items():
            self._binding.bind_input(name, "cpu", 0, _NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        self._binding.bind_output("logits", "cpu", 0, numpy.float32, tuple(logits.shape), logits.data_ptr())
        self._session.run_with_iobinding(self._binding)
        return logits

    def reads_together(self, starts: list[int], counts: list[int]) -> bool:
        # The operator takes several rows of several tokens only when all of them begin.
        if all(count == 1 for count in counts):
            return True
        return not any(starts) and len(set(counts)) == 1

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        return ()

    def _make_layers(self) -> None:
        sizes = self._dimensions
        while len(self._store.keys) < sizes.layers:
            like = torch.empty(1, sizes.heads, 1, sizes.head_width)
            self._store.add_layer(like, like)

    def _bind_rows(self, first: int, rows: int) -> None:
        """Point the graph at these rows of the store, for reading and for writing in place; nothing to do when it does already."""
        now = (first, rows, self._store.room, self._store.keys[0].data_ptr())
        if now == self._bound:
            return
        for kind, layers in (("keys", self._store.keys), ("values", self._store.values)):
            for number, layer in enumerate(layers):
                part = layer[first : first + rows]
                place = ("cpu", 0, numpy.float32, tuple(part.shape), part.data_ptr())
                self._binding.bind_input(f"{kind}.{number}", *place)
                self._binding.bind_output(f"{kind}.{number}.after", *place)
        self._bound = now


_NUMPY = {torch.float32: numpy.float32, torch.int64: numpy.int64, torch.int32: numpy.int32}
