"""A decoder's steps through torch.compile, layer by layer: layers alike share two graphs, for one answer and for any larger number, whatever
their lengths.

Only steps are compiled, in which each answer has one new token: there the Python around the operators counts most. Prompts are read as before.
Whole decoders were compiled at first: a little faster, but each layer takes its time to compile, and a model may have 60 of them.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import time
import types
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from deepseek_serving.engine import LoadError
from deepseek_serving.engines.decoders import Decoder, TorchDecoder, Window, put_and_get

if TYPE_CHECKING:
    from deepseek_serving.loading import Loaded

log = logging.getLogger(__name__)

MOST_DEVIATION = 0.05
"""How far a compiled step may stray from the same step uncompiled, in nats; four times that in bfloat16, as `precision.MOST_DEVIATION`."""

_KNOWN = (19, 7)
"""Tokens that the answers of the first step know; odd ones, so that no size that may change looks like one that may not."""


class CompiledDecoder(TorchDecoder):
    """See `Decoder`. Compiles in its first step of one row, and in its first of more: layer by layer, so that layers alike share a graph."""

    def __init__(self, decoder: TorchDecoder) -> None:
        super().__init__(decoder._decoder, decoder._head, decoder._store)
        # Compiled code is kept by code object: a copy of its own keeps one engine's graphs from another's count of recompilations.
        own = types.FunctionType(_layer_step.__code__.replace(), _layer_step.__globals__)
        compiled = torch.compile(own, dynamic=True, fullgraph=True)
        layers: Any = decoder._decoder.layers
        self._stepping = copy.copy(decoder._decoder)  # the same weights, other layers around them
        self._stepping._modules = {
            **decoder._decoder._modules,
            "layers": torch.nn.ModuleList(_Layer(layer, number, compiled) for number, layer in enumerate(layers)),
        }

    def _forward(self, first: int, embeddings: torch.Tensor, positions: torch.Tensor, seen: int) -> torch.Tensor:
        if embeddings.shape[1] > 1 or first or len(self._store.keys) < len(self._stepping.layers):  # type: ignore[arg-type]
            return super()._forward(first, embeddings, positions, seen)
        # A graph for a part of the store's room is not one for the whole, whose keys lie without gaps: the whole is never used.
        self._store.reserve(seen + 1)
        # Without the patch sizes that happen to be equal (128 heads, a room of 128 tokens) are taken for one, until they part.
        with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            return self._run_layers(self._stepping, first, embeddings, positions, seen)


class _Layer(torch.nn.Module):
    """A decoder's layer whose forward goes through the compiled step."""

    def __init__(self, layer: torch.nn.Module, number: int, compiled: Callable[..., Any]) -> None:
        super().__init__()
        self._layer = [layer]  # in a list, for a module of its own would be found twice
        self._number = number
        self._compiled = compiled

    def forward(self, hidden_states: torch.Tensor, *, past_key_values: Window, **more: Any) -> Any:
        """What the layer's own forward returns."""
        keys, values = past_key_values.layer(self._number)
        return self._compiled(self._layer[0], hidden_states, keys, values, past_key_values.positions, past_key_values.seen, more)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)


class _LayerWindow:
    """One layer's part of a `Window`, rows from 0."""

    is_compileable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, seen: int) -> None:
        self._keys, self._values = keys, values
        self._positions = positions
        self._seen = seen

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Window.update`. The layer's number is not looked at: it would make a graph for each layer."""
        return put_and_get(self._keys, self._values, keys, values, slice(0, keys.shape[0]), self._positions, self._seen)

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens of the longest row."""
        return self._seen


def _layer_step(
    layer: torch.nn.Module,
    hidden: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    seen: int,
    more: dict[str, Any],
) -> Any:
    return layer(hidden, past_key_values=_LayerWindow(keys, values, positions, seen), **more)


def compile_decoders(loaded: Loaded, decoders: dict[str, Decoder], slots: int) -> dict[str, Decoder]:
    """Each decoder that can be with its steps compiled, and checked against itself uncompiled. The log says which are not, and why.

    Raises LoadError where there is no compiler, where the model's class cannot be compiled, and when a compiled step strays.
    """
    return {name: _compiled(loaded, name, decoder, slots) for name, decoder in decoders.items()}


def _compiled(loaded: Loaded, name: str, decoder: Decoder, slots: int) -> Decoder:
    if reason := _why_not(decoder):
        log.info("compile does nothing for precision %s: %s", name, reason)
        return decoder
    assert isinstance(decoder, TorchDecoder)
    compiler = os.environ.get("CXX", "g++")
    if loaded.device.type == "cpu" and shutil.which(compiler) is None:
        raise LoadError(
            f"compile: always needs a C++ compiler, and there is no {compiler} here; install one into the image or set compile: auto"
        )
    compiled = CompiledDecoder(decoder)
    began = time.monotonic()
    for rows in sorted({1, min(2, slots)}):
        _check(loaded, decoder, compiled, rows)
    log.info("steps in precision %s compiled in %.1f s", name, time.monotonic() - began)
    return compiled


def _why_not(decoder: Decoder) -> str | None:
    if not isinstance(decoder, TorchDecoder):
        return "it is an ONNX Runtime graph already"
    if any(type(module).__module__.startswith("torch.ao.nn.quantized") for outer in decoder.modules for module in outer.modules()):
        return "torch cannot trace its own layers of dynamic int8"
    return None


@torch.inference_mode()
def _check(loaded: Loaded, decoder: TorchDecoder, compiled: CompiledDecoder, rows: int) -> None:
    """Read `rows` prompts, take a step with each decoder from there, compare. Raises LoadError."""
    name = type(loaded.model).__name__
    known = list(_KNOWN[:rows])
    ids = torch.arange(1, max(known) + 2, device=loaded.device) % int(loaded.text_config["vocab_size"])
    for row, tokens in enumerate(known):
        decoder.run(row, loaded.embed(ids[None, :tokens]), [0], [tokens])
    step = loaded.embed(ids[torch.tensor(known, device=loaded.device)][:, None])
    own = torch.log_softmax(decoder.run(0, step, known, [1] * rows).float(), -1)
    try:
        with warnings.catch_warnings():
            # transformers caches what torch is installed in; dynamo looks it up anew, with the same result.
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
            said = torch.log_softmax(compiled.run(0, step, known, [1] * rows).float(), -1)
    except Exception as error:  # dynamo and inductor raise many kinds; none of them is of use to whoever wrote the settings
        log.debug("compiling failed", exc_info=error)
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LoadError(f"{name} cannot be compiled by torch: {words}; set compile: auto") from error
    deviation = (own.exp() * (own - said).abs()).sum(-1).max().item()
    most = MOST_DEVIATION if loaded.model.dtype == torch.float32 else 4 * MOST_DEVIATION
    if not deviation <= most:  # NaN must fail, too
        raise LoadError(f"{name} compiled by torch strays by {deviation:.3f} nats, at most {most} may be; set compile: auto")
