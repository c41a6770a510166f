"""The Ray Serve application: `build(args)` makes it, one replica of `Engine` is one unit of capacity.

Imports neither torch nor transformers: Ray's controller imports this file too, and a replica loads them in a thread while it starts.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

_IMPORTED_AT = time.monotonic()

# Replicas that share a node's cores must not each start a thread per core: spinning OpenMP teams slow one another down thirtyfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from fastapi import FastAPI  # noqa: E402 - after the environment is set
from ray import serve  # noqa: E402

from deepseek_serving.settings import ServingSettings  # noqa: E402

if TYPE_CHECKING:
    from deepseek_serving.side_door import SideDoor


class EngineReplica:
    """One replica: starts its service before it is ready, answers through the FastAPI app, ends its answers before it goes."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray Serve awaits a deployment's constructor
        from deepseek_serving.metrics import RaySink
        from deepseek_serving.service import Service
        from deepseek_serving.telemetry import with_otlp

        settings = ServingSettings.from_args(args)
        self._service = Service(settings, with_otlp(RaySink(), model=settings.served_name), born_at=_process_start())
        await self._service.start()
        self._door: SideDoor | None = None
        if settings.serving.direct_port:
            from deepseek_serving import side_door
            from deepseek_serving.api import make_api

            door = side_door.SideDoor(make_api(self._service), settings.serving.direct_port)
            door.open()
            self._door = door
            await door.noticed(settings.serving.direct_noticed_seconds)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the app after the constructor."""
        from deepseek_serving.api import make_api

        return make_api(self._service)

    async def check_health(self) -> None:
        """Ray Serve calls this every few seconds and replaces the replica when it raises."""
        self._service.check_health()

    async def __del__(self) -> None:
        """Ray Serve calls this once no request is left, and awaits it."""
        if service := getattr(self, "_service", None):
            try:
                if door := getattr(self, "_door", None):
                    service.ready = False  # /readyz says so from now on, and whoever probes it stops sending
                    await door.close(service.settings.serving.direct_linger_seconds)
            finally:
                await service.stop()


def build(args: dict[str, Any]) -> serve.Application:
    """The application of `args`, the dictionary of ServingSettings. Raises pydantic.ValidationError, naming the field, for any other.

    The Serve config sets replica counts and may override any deployment option.
    """
    settings = ServingSettings.from_args(args)
    deployment = serve.deployment(**settings.deployment_options())(serve.ingress()(EngineReplica))
    return deployment.bind(settings.to_args())


def _process_start() -> float:
    """Monotonic seconds at which this replica began: when this file was imported, which is the first thing it does of its own."""
    return _IMPORTED_AT
