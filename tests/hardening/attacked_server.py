"""The server that is attacked: the real app as `serve-local` runs it, and one more route with its numbers, for the tests only."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

from deepseek_serving import streaming
from deepseek_serving.cli import local_api
from deepseek_serving.listening import make_server
from deepseek_serving.metrics import Ledger
from deepseek_serving.service import Service
from deepseek_serving.settings import ServingSettings

told = json.loads(sys.argv[2])
quiet = told.pop("testQuiet", False)
logging.basicConfig(level=logging.WARNING if quiet else logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s %(message)s")
logging.getLogger("PIL").setLevel(logging.INFO)
ledger = Ledger()
streaming.STALLED_SECONDS = told.pop("testStalledSeconds", streaming.STALLED_SECONDS)
streaming.LOOK_SECONDS = min(streaming.LOOK_SECONDS, streaming.STALLED_SECONDS)
service = Service(ServingSettings.from_args(told), ledger)
app = local_api(service)


class Held:
    """How long the event loop could not turn, in this process' own processor time: another program's load does not count."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0.002)
            self.longest = max(self.longest, time.process_time() - before)


held = Held()


class Numbers:
    """Answers /numbers, hands on everything else."""

    async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
        held.watch()
        if scope["type"] != "http" or scope["path"] != "/numbers":
            await app(scope, receive, send)
            return
        numbers = {
            "running": service.admission.running,
            "waiting": service.admission.waiting,
            "held_seconds": held.longest,
            "engine": service.engine.stats().running,
            "metrics": {f"{name}{list(labels)}": value for (name, labels), value in ledger.values.items()},
            "observed": {name: len(values) for name, values in ledger.observations.items()},
        }
        held.longest = 0.0
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(numbers).encode()})


chatty = {} if quiet else {"log_level": "debug", "access_log": True}
make_server(Numbers(), host="127.0.0.1", port=int(sys.argv[1]), lifespan="on", **chatty).run()
