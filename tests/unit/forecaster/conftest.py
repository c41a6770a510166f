"""A Prometheus at the edge of the tests: answers /api/v1/query_range from a function, over real HTTP, in a thread of its own."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

Load = Callable[[str, float], float | str | None]
MOST_POINTS = 11_000


class FakePrometheus:
    """`load(query, instant)` gives the value at an instant, None where there is none. `broken` is an HTTP status and body for all."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.ranges: list[tuple[str, float, float, float]] = []
        self.broken: tuple[int, bytes] | None = None
        self.series_per_query = 1
        self.parts: Callable[[str, Load], dict[str, Callable[[float], Any]]] | None = None
        """How a query for many is taken apart; its series then carry their numbers."""
        self.refuse: Callable[[str], bool] = lambda query: False
        self.twice = ""
        """The part that gives two series."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                given = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query + "&" + sent).items()}
                status, body = outer.answer(given)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, given: dict[str, str]) -> tuple[int, bytes]:
        if self.broken is not None:
            return self.broken
        query, start, end, step = given["query"], float(given["start"]), float(given["end"]), float(given["step"])
        self.ranges.append((query, start, end, step))
        count = int((end - start) / step) + 1
        if count > MOST_POINTS:
            return 400, b'{"status":"error","errorType":"bad_data","error":"exceeded maximum resolution of 11,000 points per timeseries"}'
        if self.refuse(query):
            return 400, b'{"status":"error","errorType":"bad_data","error":"parse error"}'
        instants = [start + at * step for at in range(count)]
        if self.parts is not None and (parts := self.parts(query, self.load)):
            return 200, self._many(parts, instants, query)
        values = [[instant, str(load)] for instant in instants if (load := self.load(query, instant)) is not None]
        series = [{"metric": {"n": str(number)}, "values": values} for number in range(self.series_per_query)] if values else []
        return 200, json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}).encode()

    def _many(self, parts: dict[str, Callable[[float], Any]], instants: list[float], query: str) -> bytes:
        result = []
        for place, (number, load) in enumerate(parts.items()):
            values = [[instant, str(found)] for instant in instants if (found := load(instant)) is not None]
            again = 2 if self.twice and query.split("label_replace")[place + 1].startswith(f"((\n{self.twice}\n)") else 1
            result += [{"metric": {"deepseek_forecaster_series": number, "n": str(copy)}, "values": values} for copy in range(again) if values]
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    """One whose every query gives 10 per second at every instant; the test sets `load`."""
    with FakePrometheus(lambda query, instant: 10.0) as fake:
        yield fake
