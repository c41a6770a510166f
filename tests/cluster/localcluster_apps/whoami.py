"""A Serve application that says which pod answers, at once, after a while, or in chunks."""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve

web = FastAPI()


@serve.deployment
@serve.ingress(web)
class Engine:
    """One replica."""

    @web.get("/")
    async def whoami(self, seconds: float = 0.0) -> dict[str, str | None]:
        """The pod's name, after ``seconds``."""
        await asyncio.sleep(seconds)
        return {"pod": os.environ.get("RAY_CLOUD_INSTANCE_ID"), "colour": os.environ.get("COLOUR"), "secret": os.environ.get("SECRET")}

    @web.post("/size")
    async def size(self, request: Request) -> dict[str, int]:
        """How many bytes arrived."""
        return {"bytes": len(await request.body())}

    @web.get("/stream")
    async def stream(self, chunks: int = 10, seconds: float = 0.1) -> StreamingResponse:
        """Server-sent events, one every ``seconds``."""

        async def events() -> AsyncIterator[str]:
            for number in range(chunks):
                yield f"data: {number}\n\n"
                await asyncio.sleep(seconds)

        return StreamingResponse(events(), media_type="text/event-stream")


app = Engine.bind()
