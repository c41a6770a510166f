"""A real server on a free port, for the official clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from deepseek_serving.cli import local_api
from deepseek_serving.listening import make_server
from deepseek_serving.metrics import Ledger
from deepseek_serving.service import Service
from deepseek_serving.settings import ServingSettings


@dataclass
class Server:
    """A running server and its numbers."""

    url: str
    service: Service
    ledger: Ledger

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.02)


@contextmanager
def run_server(args: dict[str, Any]) -> Iterator[Server]:
    ledger = Ledger()
    service = Service(ServingSettings.from_args(args), ledger)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = make_server(local_api(service), lifespan="on", timeout_graceful_shutdown=5)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 120
            while not service.ready:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < deadline, "the server did not start within 120 s"
                time.sleep(0.02)
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", service, ledger)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def serve() -> Callable[[dict[str, Any]], Any]:
    """`with serve(args) as server:` in a test."""
    return run_server


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    with run_server({"model": {"engine": "echo"}, "modelName": "chat", "serving": {"maxOutputTokens": 100, "maxBodyMebibytes": 1}}) as server:
        yield server
