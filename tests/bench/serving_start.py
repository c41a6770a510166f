"""From asking for a server to its first token over HTTP: a fresh process on a machine whose disk cache is warm, part by part."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serving_batch import tiny_model

RUNS = 3
_READY = re.compile(r"after [\d.]+ s: import ([\d.]+), load ([\d.]+), quantize ([\d.]+), warm-up ([\d.]+)")


def measure(root: Path) -> dict[str, Any]:
    folder = tiny_model(root)
    return {kind: [_once(folder, kind) for _ in range(RUNS)] for kind in ("none", "int4")}


def _once(folder: Path, kind: str) -> dict[str, float]:
    import openai

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    command = [sys.executable, "-m", "deepseek_serving.cli", "serve-local", "--model", str(folder), "--quantization", kind, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() - began > 120:
                        raise RuntimeError("the server did not start") from None
                    time.sleep(0.05)
            listening = time.monotonic() - began
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            asked = time.monotonic()
            stream = client.chat.completions.create(model=folder.name, messages=[{"role": "user", "content": "hello"}], stream=True)
            next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
            first_token = time.monotonic() - asked
            stream.close()
        finally:
            server.terminate()
        told = server.stderr.read() if server.stderr else ""
    match = _READY.search(told)
    if match is None:
        raise RuntimeError(f"the server did not tell how its start went: {told[-2000:]}")
    importing, loading, quantizing, warming = map(float, match.groups())
    return {
        "total": listening + first_token,
        "import": importing,
        "load": loading,
        "quantize": quantizing,
        "warm-up": warming,
        "process and web server": listening - importing - loading - quantizing - warming,
        "first token": first_token,
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each part over the runs."""
    return {part: statistics.median(run[part] for run in runs) for part in runs[0]}
