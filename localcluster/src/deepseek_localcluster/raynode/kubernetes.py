"""The API server as the kubelet sees it: requests, and caches kept by list and watch."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from deepseek_localcluster.kubeapi import JSON, MERGE_PATCH, Credentials

Object = dict[str, Any]
log = logging.getLogger(__name__)


class Api:
    """An asynchronous client; made inside a running event loop."""

    def __init__(self, credentials: Credentials) -> None:
        tls = ssl.create_default_context(cadata=credentials.ca)
        self._server = credentials.server
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {credentials.token}"}, connector=aiohttp.TCPConnector(ssl=tls, limit=0)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(self, method: str, path: str, body: Object | None = None, content_type: str = JSON) -> tuple[int, Object]:
        """HTTP status and decoded answer; three attempts where the server does not answer at all."""
        data = None if body is None else json.dumps(body)
        for attempt in range(3):
            try:
                headers = {"Content-Type": content_type}
                async with self._session.request(method, self._server + path, data=data, headers=headers) as response:
                    return response.status, await response.json(content_type=None) or {}
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == 2:
                    return 503, {"message": repr(error)}
                await asyncio.sleep(0.5)
        raise AssertionError("unreachable")

    async def patch(self, path: str, body: Object) -> tuple[int, Object]:
        """JSON merge patch."""
        return await self.request("PATCH", path, body, MERGE_PATCH)

    async def follow(self, path: str, on_change: Callable[[Object], None], on_gone: Callable[[Object], None]) -> None:
        """List, then watch, for ever: ``on_change`` for every object that is there or changes, ``on_gone`` for every one that went."""
        known: dict[str, Object] = {}
        while True:
            try:
                version = await self._list(path, known, on_change, on_gone)
                await self._watch(path, version, known, on_change, on_gone)
            except (aiohttp.ClientError, TimeoutError, ValueError, LookupError) as error:
                log.warning("watch of %s starts over: %r", path, error)
                await asyncio.sleep(0.5)

    async def _list(self, path: str, known: dict[str, Object], on_change: Callable[[Object], None], on_gone: Callable[[Object], None]) -> str:
        status, listed = await self.request("GET", path)
        if status != 200:
            raise LookupError(f"{status} {listed.get('message')}")
        present = {each["metadata"]["uid"]: each for each in listed["items"]}
        for uid in known.keys() - present.keys():
            on_gone(known.pop(uid))
        for uid, each in present.items():
            known[uid] = each
            on_change(each)
        return str(listed["metadata"]["resourceVersion"])

    async def _watch(
        self, path: str, version: str, known: dict[str, Object], on_change: Callable[[Object], None], on_gone: Callable[[Object], None]
    ) -> None:
        url = f"{self._server}{path}?watch=1&allowWatchBookmarks=true&resourceVersion={version}"
        pending = b""
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=None, sock_read=300)) as response:
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for event in map(json.loads, filter(None, lines)):
                    each = event["object"]
                    if event["type"] == "ERROR":
                        raise LookupError(each.get("message"))
                    if event["type"] == "DELETED":
                        known.pop(each["metadata"]["uid"], None)
                        on_gone(each)
                    elif event["type"] != "BOOKMARK":
                        known[each["metadata"]["uid"]] = each
                        on_change(each)
