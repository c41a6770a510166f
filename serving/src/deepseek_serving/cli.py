"""The command line: `deepseek-serving check-compatibility`, `quantize`, `serve-local`, `new-key` and `tiny-model`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek_serving.settings import SOURCE_FORMS, Engine, Mode, Quantization, ServingSettings, usual_slots

if TYPE_CHECKING:
    from fastapi import FastAPI

    from deepseek_serving.service import Service


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    code: int = parsed.run(parsed)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepseek-serving", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tiny = commands.add_parser("tiny-model", help="train a tiny DeepSeek-VL that captions drawn shapes")
    tiny.add_argument("--out", type=Path, required=True, help="folder to write; left alone when the same recipe already made it")
    tiny.add_argument("--seconds", type=float, default=150, help="most computing time of one core (default 150)")
    tiny.add_argument("--least-accuracy", type=float, default=0.99, help="share of exact captions below which the exit code is 1")
    tiny.add_argument("--force", action="store_true", help="train even when the folder is current")
    tiny.set_defaults(run=_tiny_model)

    local = commands.add_parser("serve-local", help="serve one model on a bare uvicorn, without Ray: for development")
    local.add_argument("--model", default="", help=f"{SOURCE_FORMS}, or a folder; not needed for the echo engine")
    local.add_argument("--name", default="", help="the model's name in the API (default: the last part of --model)")
    local.add_argument("--engine", choices=[engine.value for engine in Engine], default=Engine.TRANSFORMERS.value)
    local.add_argument("--quantization", choices=[kind.value for kind in Quantization], default=Quantization.NONE.value)
    local.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.AUTO.value)
    local.add_argument("--max-tokens-per-second", type=int)
    local.add_argument("--settings", type=json.loads, default={}, help='further settings as JSON, such as \'{"serving": {"slots": 4}}\'')
    local.add_argument("--keys", type=Path, help="folder of API keys' hashes, one file a client (see new-key); without it nobody needs a key")
    local.add_argument("--host", default="127.0.0.1")
    local.add_argument("--port", type=int, default=8000)
    local.set_defaults(run=_serve_local)

    check = commands.add_parser("check-compatibility", help="what a model folder needs: engine, precision, memory, nodes; loads nothing")
    check.add_argument("--model-path", type=Path, required=True, help="a folder with config.json and .safetensors files")
    check.add_argument("--engine", choices=[engine.value for engine in Engine], help="exit with 1 unless this engine runs the model")
    check.add_argument("--quantization", choices=[kind.value for kind in Quantization], default=Quantization.INT4.value)
    check.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.AUTO.value)
    check.add_argument(
        "--slots", type=int, help=f"answers at once (default {usual_slots(None)}, with --engine vllm {usual_slots(Engine.VLLM)})"
    )
    check.add_argument("--tokens", type=int, default=4096, help="tokens of each, prompt and answer (default 4096)")
    check.add_argument("--json", action="store_true", help="the same as JSON, sizes in bytes")
    check.set_defaults(run=_check_compatibility)

    smaller = commands.add_parser("quantize", help="write a folder whose decoder is already quantized: replicas of it start sooner")
    smaller.add_argument("--model-path", type=Path, required=True, help="the folder to read")
    smaller.add_argument("--quantization", choices=[Quantization.INT8.value, Quantization.INT4.value], default=Quantization.INT4.value)
    smaller.add_argument("--out", type=Path, required=True, help="the folder to write")
    smaller.set_defaults(run=_quantize)

    key = commands.add_parser("new-key", help="make an API key, and the line for the client's file in the keys' Secret")
    key.set_defaults(run=_new_key)
    return parser


def _tiny_model(parsed: argparse.Namespace) -> int:
    from deepseek_serving.tiny.recipe import Recipe, is_current

    recipe = Recipe()
    if is_current(parsed.out, recipe) and not parsed.force:
        print(f"{parsed.out} is current")
        return 0
    print(f"training the tiny model for at most {parsed.seconds:.0f} s of one core", flush=True)
    import torch

    from deepseek_serving.tiny.train import train

    torch.set_num_threads(1)
    receipt = train(parsed.out, seconds=parsed.seconds, recipe=recipe, report=lambda line: print(line, flush=True))
    print(f"{receipt['accuracy']:.1%} of {receipt['pictures']} fresh pictures captioned exactly, after {receipt['seconds']} s")
    if receipt["accuracy"] < parsed.least_accuracy:
        print(f"that is less than {parsed.least_accuracy:.1%}; train longer: --seconds {parsed.seconds * 2:.0f}", file=sys.stderr)
        return 1
    return 0


def _check_compatibility(parsed: argparse.Namespace) -> int:
    from deepseek_serving.compatibility import UnreadableModelError, examine, table

    try:
        slots = parsed.slots or usual_slots(Engine(parsed.engine) if parsed.engine else None)
        verdict = examine(parsed.model_path, slots=slots, tokens=parsed.tokens, mode=Mode(parsed.mode))
    except UnreadableModelError as error:
        print(error, file=sys.stderr)
        return 2
    kind = Quantization(parsed.quantization)
    print(json.dumps(verdict.told(), indent=2) if parsed.json else table(verdict, kind, slots, parsed.tokens))
    if parsed.engine and Engine(parsed.engine) not in verdict.engines():
        print(f"engine {parsed.engine} does not run {verdict.model_type}", file=sys.stderr)
        return 1
    return 0


def _quantize(parsed: argparse.Namespace) -> int:
    from deepseek_serving.engine import LoadError
    from deepseek_serving.loading import load
    from deepseek_serving.precision import quantize_to
    from deepseek_serving.settings import ModelSettings

    kind = Quantization(parsed.quantization)
    try:
        loaded = load(ModelSettings(source=parsed.model_path.resolve().as_uri(), quantization=kind))
        receipt = quantize_to(parsed.out, loaded, kind)
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{parsed.out} holds the decoder in {kind.value}, {receipt.divergence:.4f} nats per token from the original")
    return 0


def _serve_local(parsed: argparse.Namespace) -> int:
    from deepseek_serving.listening import make_server
    from deepseek_serving.metrics import Ledger
    from deepseek_serving.service import Service

    source = parsed.model if "://" in parsed.model or not parsed.model else Path(parsed.model).resolve().as_uri()
    told: dict[str, Any] = {
        "model": {"source": source, "engine": parsed.engine, "quantization": parsed.quantization, "mode": parsed.mode},
        "serving": {"maxTokensPerSecond": parsed.max_tokens_per_second},
        "access": {"keysFolder": str(parsed.keys.resolve()) if parsed.keys else ""},
        "modelName": parsed.name,
    }
    for section, values in parsed.settings.items():
        told[section] = {**told[section], **values} if isinstance(told.get(section), dict) else values
    service = Service(ServingSettings.from_args(told), Ledger())
    make_server(local_api(service), host=parsed.host, port=parsed.port, lifespan="on").run()
    return 0


def _new_key(_: argparse.Namespace) -> int:
    from deepseek_serving.keys import new_key

    key, line = new_key()
    print(f"the client's key, shown this once: {key}\nits line in the client's file:      {line}")
    return 0


def local_api(service: Service) -> FastAPI:
    """The API of one service that starts and stops with the server it runs in."""
    from deepseek_serving.api import make_api

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    return make_api(service, lifespan=lifespan)


if __name__ == "__main__":
    raise SystemExit(main())
