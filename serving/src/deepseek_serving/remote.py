"""Fetches a picture from another host for a client, if the settings name that host: off by default.

What a server fetches for strangers it fetches from inside its own network (server-side request forgery). So a URL is parsed once, by the
parser of the library that connects; its host is resolved once, every address must be a public one, and the connection goes to the very
address that was checked; no redirect is followed, no proxy, no cookie, no credentials; size and time are bounded.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from deepseek_serving.engine import RequestError

MOST_MEBIBYTES = 10
MOST_SECONDS = 5.0

_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[\\\x00-\x20\x7f]")
_TYPE = re.compile(r"image/[\w.+-]{1,64}")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ImageFetcher:
    """Fetches pictures from the hosts named, `*` for every public one. `also` are networks allowed though they are not public."""

    def __init__(self, hosts: Sequence[str], *, also: Sequence[Network] = (), ports: Sequence[int] = (80, 443)) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._also = tuple(also)
        self._ports = frozenset(ports)

    async def fetch(self, url: str) -> str:
        """The picture as a data URL. Raises RequestError; the words never tell what a private address answered."""
        parsed = self._parsed(url)
        try:
            async with asyncio.timeout(MOST_SECONDS):
                return await self._get(parsed)
        except RequestError:
            raise
        except TimeoutError:
            raise _refusal(f"The image did not come within {MOST_SECONDS:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise _refusal("The image could not be fetched.") from None

    def _parsed(self, text: str) -> URL:
        if len(text) > 2048 or _UNSAFE.search(text):
            raise _refusal("An image URL must have at most 2048 characters, none of them a blank, a backslash or a control character.")
        try:
            url = URL(text)
            port, host = url.port, (url.host or "").rstrip(".").lower()
        except ValueError:
            raise _refusal("The image URL is not valid.") from None
        if url.scheme not in _PORTS or not host or url.user is not None or url.password is not None:
            raise _refusal("An image URL must be http:// or https:// with a host and without a user.")
        if port not in self._ports:
            raise _refusal(f"An image URL may use the ports {', '.join(map(str, sorted(self._ports)))} only.")
        if "*" not in self._hosts and host not in self._hosts:
            raise _refusal("Images are not fetched from that host; send the image itself as a data URL.", "image_url_refused")
        return url

    async def _get(self, url: URL) -> str:
        checked = await self._addresses(url.host or "", url.port or 0)
        connector = aiohttp.TCPConnector(resolver=_Pinned(checked), use_dns_cache=False, force_close=True)
        session = aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "deepseek-serving"}
        async with session, session.get(url, allow_redirects=False, headers=headers) as answer:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if answer.status != 200 or not _TYPE.fullmatch(kind):
                raise _refusal("The image URL must answer 200 with an image; redirects are not followed.")
            raw = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                raw += chunk
                if len(raw) > MOST_MEBIBYTES * 2**20:
                    raise _refusal(f"A fetched image must be at most {MOST_MEBIBYTES} MiB.")
        return f"data:{kind};base64,{base64.b64encode(raw).decode()}"

    async def _addresses(self, host: str, port: int) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        results = []
        for family, _, proto, _, address in found:
            # One private address among public ones is an attack, not an accident: refuse them all.
            if not is_public(str(address[0])) and not any(ipaddress.ip_address(address[0]) in network for network in self._also):
                raise _refusal("The image URL's host has no public address.", "image_url_refused")
            results.append(
                ResolveResult(hostname=host, host=str(address[0]), port=port, family=family, proto=proto, flags=socket.AI_NUMERICHOST)
            )
        return results


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked, whatever is asked."""

    def __init__(self, checked: list[ResolveResult]) -> None:
        self._checked = checked

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        return self._checked

    async def close(self) -> None:
        """Nothing is open."""


def is_public(text: str) -> bool:
    """Whether an address is somewhere on the public Internet, looking through the forms that carry an IPv4 address inside an IPv6 one."""
    try:
        address: Any = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            address = inner
    return bool(address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified)


def _refusal(message: str, code: str = "invalid_image") -> RequestError:
    return RequestError(message, code=code, param="messages")
