"""Makes the decoders of the precisions that were asked for, checks each against the unquantized model, and lets go of weights nobody needs."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deepseek_serving.engine import LoadError
from deepseek_serving.engines.decoders import Decoder, TorchDecoder
from deepseek_serving.engines.store import SlotStore
from deepseek_serving.loading import Loaded, weight_bytes
from deepseek_serving.quantize import Int8Embedding, quantize_linears
from deepseek_serving.routes import missing_for_graphs, wants_graph, why_no_graph
from deepseek_serving.settings import Quantization
from deepseek_serving.stored import Receipt, save_the_rest

if TYPE_CHECKING:
    from deepseek_serving.engines.graph import GraphDecoder

log = logging.getLogger(__name__)

MOST_DIVERGENCE = 0.5
"""Largest mean Kullback-Leibler divergence (nats per token) from the unquantized model on the probe."""

BITS = {Quantization.INT8: 8, Quantization.INT4: 4}

MOST_DEVIATION = 0.05
"""How far an unquantized batched step may stray from the model's own pass, in nats: rounding by thousandths, a wrong cache by whole nats."""

_READ, _STEPPED = 16, 16
"""Tokens of the probe that are read in one pass, and that follow one by one."""


def make_decoders(loaded: Loaded, kinds: tuple[Quantization, ...], store: SlotStore, *, threads: int = 1) -> dict[str, Decoder]:
    """A decoder for each of `kinds`, all over one store, in that order, each checked against the model as it was loaded.

    Afterwards the model holds what is still needed of its own weights: all, or (when all of `kinds` are graphs) eyes and embeddings.
    Raises LoadError when a quantized one strays further than `MOST_DIVERGENCE`, or the model's own steps further than `MOST_DEVIATION`.
    """
    if loaded.quantized is not None:
        return _stored(loaded, loaded.quantized, kinds, store, threads)
    objection = why_no_graph(loaded.text_config, loaded.device.type)
    float32 = loaded.model.dtype == torch.float32
    graphs = set() if objection else {kind for kind in kinds if wants_graph(kind, float32=float32)}
    if graphs:
        store.dtype = torch.float32  # what the graph reads and writes
    ids = _probe_ids(loaded)
    own = _own_pass(loaded, ids)
    whole = TorchDecoder(loaded.decoder, loaded.head, store)
    if graphs != set(kinds):
        _check_steps(own, lambda: probe(loaded, whole, ids), loaded)
    decoders: dict[str, Decoder] = {}
    for kind in kinds:
        keep = kind is not kinds[-1] or any(other not in BITS for other in kinds)
        if kind in graphs:
            decoder: Decoder = _by_graph(loaded, kind, store, threads)
        else:
            decoder = _by_torch(loaded, kind, store, keep=keep) if kind in BITS else whole
        if kind in BITS:
            divergence = check(own, probe(loaded, decoder, ids), kind)
            way = "ONNX Runtime" if kind in graphs else f"torch ({objection})"
            log.info("%s by %s: %.4f nats per token from the unquantized model", kind.value, way, divergence)
        elif kind in graphs:
            _check_steps(own, partial(probe, loaded, decoder, ids), loaded, remedy="; bf16 is computed by torch")
            log.info("%s by ONNX Runtime", kind.value)
        decoders[kind.value] = decoder
    if graphs == set(kinds):
        keep_eyes_and_embeddings(loaded, rounded=all(kind in BITS for kind in kinds))
    return decoders


def bytes_held(loaded: Loaded, decoders: Iterable[Decoder]) -> int:
    """Memory of all weights, each shared one once."""
    decoders = list(decoders)
    return weight_bytes(loaded.model, *(module for each in decoders for module in each.modules)) + sum(each.packed_bytes for each in decoders)


def check(before: torch.Tensor, after: torch.Tensor, kind: Quantization) -> float:
    """Mean divergence of log-probabilities [tokens, vocabulary]. Raises LoadError above `MOST_DIVERGENCE`, and for NaN."""
    divergence = (before.exp() * (before - after)).sum(-1).mean().item()
    if not divergence <= MOST_DIVERGENCE:
        coarser = {Quantization.INT4: "int8, bf16 or none", Quantization.INT8: "bf16 or none"}[kind]
        raise LoadError(
            f"quantization {kind.value} changes this model too much: {divergence:.3f} nats per token on the probe, "
            f"at most {MOST_DIVERGENCE} are allowed; use {coarser}"
        )
    return divergence


@torch.inference_mode()
def probe(loaded: Loaded, decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [1 + 16, vocabulary] of the tokens after the 16th … 32nd of `ids`, through row 0 of the decoder's store."""
    embeddings = loaded.embed(ids[None])
    logits = [decoder.run(0, embeddings[:, :_READ], [0], [_READ])[0]]
    logits += [decoder.run(0, embeddings[:, at : at + 1], [at], [1])[0] for at in range(_READ, _READ + _STEPPED)]
    return torch.log_softmax(torch.stack(logits).float().cpu(), -1)


def _probe_ids(loaded: Loaded) -> torch.Tensor:
    """A fixed run of token ids [32]."""
    ids = torch.arange(_READ + _STEPPED, device=loaded.device) * 7919 % int(loaded.text_config["vocab_size"])
    if loaded.image_token is not None:
        ids[ids == loaded.image_token] = 0  # a picture's token without a picture means nothing
    return ids


@torch.inference_mode()
def _own_pass(loaded: Loaded, ids: torch.Tensor) -> torch.Tensor:
    """What the model itself says in one pass: log-probabilities [1 + 16, vocabulary], as `probe` gives them."""
    logits = loaded.model(input_ids=ids[None], use_cache=False).logits[0, _READ - 1 :]
    return torch.log_softmax(logits.float().cpu(), -1)


def _check_steps(own: torch.Tensor, stepped: Callable[[], torch.Tensor], loaded: Loaded, *, remedy: str = "") -> None:
    """Refuse a model that batched steps would get wrong (one that keeps more than keys and values of full attention)."""
    name = type(loaded.model).__name__
    try:
        deviation = (own.exp() * (own - stepped()).abs()).sum(-1).max().item()
    except (RuntimeError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
        raise LoadError(f"{name} cannot be decoded in slots: {error}") from error
    # bfloat16 rounds 2^16 times coarser than float32, and products of one row otherwise than products of many.
    most = MOST_DEVIATION if loaded.model.dtype == torch.float32 else 4 * MOST_DEVIATION
    if not deviation <= most:  # NaN must fail, too
        raise LoadError(f"{name} cannot be decoded in slots: a step strays by {deviation:.3f} nats, at most {most} may be{remedy}")


def keep_eyes_and_embeddings(loaded: Loaded, *, rounded: bool = True) -> None:
    """Drop the decoder's own layers; hold the embeddings in 8 bits if they may be `rounded`."""
    loaded.decoder.layers = torch.nn.ModuleList()
    if rounded:
        embedding = loaded.model.get_input_embeddings()
        assert isinstance(embedding, torch.nn.Embedding)
        loaded.model.set_input_embeddings(Int8Embedding(embedding))
    loaded.model.set_output_embeddings(torch.nn.Identity())  # type: ignore[no-untyped-call]


def quantize_to(folder: Path, loaded: Loaded, kind: Quantization) -> Receipt:
    """Write the model with its decoder in `kind` into `folder`; returns the receipt that lies in there. Raises LoadError.

    Only decoders that run as a graph can be stored: torch's packed weights depend on the machine.
    """
    if objection := why_no_graph(loaded.text_config, loaded.device.type):
        raise LoadError(f"only a decoder that runs in ONNX Runtime can be stored quantized: {objection}; it is quantized at each load instead")
    from deepseek_serving.engines.graph import GraphDecoder
    from deepseek_serving.engines.llama_graph import write_graph

    ids = _probe_ids(loaded)
    own = _own_pass(loaded, ids)
    folder.mkdir(parents=True, exist_ok=True)
    head = loaded.head
    assert isinstance(head, torch.nn.Linear)
    dimensions = write_graph(loaded.decoder, head, bits=BITS[kind], context=loaded.context, folder=folder)
    store = SlotStore(1, loaded.context)
    store.dtype = torch.float32
    said = probe(loaded, GraphDecoder(folder, dimensions, store, threads=1), ids)
    receipt = Receipt(kind, dimensions, check(own, said, kind), tuple(said.argmax(-1).tolist()))
    save_the_rest(loaded, folder)
    receipt.write(folder)
    return receipt


def _stored(loaded: Loaded, folder: Path, kinds: tuple[Quantization, ...], store: SlotStore, threads: int) -> dict[str, Decoder]:
    """The decoder that `quantize_to` wrote."""
    receipt = Receipt.read(folder)
    receipt.check_asked(kinds)
    if missing := missing_for_graphs():
        raise LoadError(f"{folder} holds a decoder for ONNX Runtime: {missing}")
    from deepseek_serving.engines.graph import GraphDecoder

    store.dtype = torch.float32
    decoder = GraphDecoder(folder, receipt.dimensions, store, threads=threads)
    receipt.check_probe(probe(loaded, decoder, _probe_ids(loaded)))
    keep_eyes_and_embeddings(loaded)
    return {receipt.quantization.value: decoder}


def _by_torch(loaded: Loaded, kind: Quantization, store: SlotStore, *, keep: bool) -> TorchDecoder:
    decoder = copy.deepcopy(loaded.decoder) if keep else loaded.decoder
    head = copy.deepcopy(loaded.head) if keep else loaded.head
    both = torch.nn.ModuleDict({"decoder": decoder, "head": head})
    quantize_linears(both, kind)
    if not keep:
        loaded.model.set_output_embeddings(both["head"])  # type: ignore[no-untyped-call]
    return TorchDecoder(both["decoder"], both["head"], store)


def _by_graph(loaded: Loaded, kind: Quantization, store: SlotStore, threads: int) -> GraphDecoder:
    from deepseek_serving.engines.graph import GraphDecoder
    from deepseek_serving.engines.llama_graph import write_graph

    head = loaded.head
    assert isinstance(head, torch.nn.Linear)
    # ONNX Runtime lays the weights out anew as it reads them; the files are not needed afterwards.
    with tempfile.TemporaryDirectory(prefix="deepseek-decoder-") as folder:
        dimensions = write_graph(loaded.decoder, head, bits=BITS.get(kind), context=loaded.context, folder=Path(folder))
        return GraphDecoder(Path(folder), dimensions, store, threads=threads)
