"""Pictures and base64 from people who mean no good: never a 5xx, never more memory than a picture may take."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from hardening.rig import Attacked, gather_limited, times
from PIL import Image

MOST_MEBIBYTES = 256
"""Growth of the server's memory: 2 requests of 16 megapixels × (4 + 3) bytes = 224 MB while they are decoded."""


def file_of(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that says that size, whatever is in it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def url_of(raw: bytes, type: str = "image/png") -> str:
    return f"data:{type};base64,{base64.b64encode(raw).decode()}"


SEEDS = [
    file_of(Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 20).convert(mode), format)
    for format, mode in [
        ("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P"),
    ]
]  # fmt: skip


def mutated(random: random.Random) -> bytes:
    """A real picture with some bytes changed, cut, doubled, or its lengths made enormous."""
    raw = bytearray(random.choice(SEEDS))
    for _ in range(random.choice((1, 1, 2, 5, 50))):
        at = random.randrange(len(raw))
        match random.randrange(6):
            case 0:
                raw[at] ^= 1 << random.randrange(8)
            case 1:
                raw[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"))
            case 2:
                del raw[at : at + random.randrange(1, 200)]
            case 3:
                raw[at:at] = random.randbytes(random.randrange(1, 40))
            case 4:
                raw[at:at] = raw[at : at + random.randrange(1, 300)]
            case 5:
                raw[at : at + 1] = bytes([random.randrange(256)])
        raw = raw or bytearray(b"\0")
    return bytes(raw)


def bombs() -> dict[str, str]:
    """Each has a name and is a data URL."""
    zeros = zlib.compress(bytes(10_000_000), 9)
    frames = [Image.new("L", (2, 2), index % 256) for index in range(2000)]
    text = b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(5_000_000), 9)) for _ in range(40))
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000), 9))
    return {
        "nothing": url_of(b""),
        "one pixel": url_of(file_of(Image.new("RGB", (1, 1)), "PNG")),
        "one pixel wide": url_of(file_of(Image.new("RGB", (1, 4000)), "PNG")),
        "65,535 × 65,535 by its header": url_of(png(65_535, 65_535, data=zeros)),
        "2³¹ − 1 wide": url_of(png(2**31 - 1, 1, data=zeros)),
        "no width": url_of(png(0, 10, data=zeros)),
        "10,000 × 10,000 in a few KB": url_of(file_of(Image.new("1", (10_000, 10_000)), "PNG")),
        "4,000 × 4,000, allowed": url_of(file_of(Image.new("L", (4_000, 4_000)), "PNG")),
        "4,000 × 4,000, the data missing": url_of(png(4_000, 4_000, data=zeros[:100])),
        "2,000 frames": url_of(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image/gif"),
        "200 MB of text": url_of(png(8, 8, data=zlib.compress(bytes(200)), extra=text)),
        "50 MB of colour profile": url_of(png(8, 8, data=zlib.compress(bytes(200)), extra=profile)),
        "frames in a video": url_of(b"\xff\xd8\xff" * 1000, "video/jpeg"),
        "SVG": url_of(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "image/svg+xml"),
        "TIFF": url_of(file_of(Image.new("RGB", (8, 8)), "TIFF"), "image/tiff"),
        "BMP that says it is PNG": url_of(file_of(Image.new("RGB", (8, 8)), "BMP")),
        "a PNG with a ZIP behind it": url_of(file_of(Image.new("RGB", (8, 8)), "PNG") + b"PK\x03\x04" + bytes(1000)),
        "16 bit": url_of(file_of(Image.new("I;16", (8, 8)), "PNG")),
        "CMYK": url_of(file_of(Image.new("CMYK", (8, 8)), "JPEG"), "image/jpeg"),
        "half": url_of(file_of(Image.new("RGB", (400, 400)), "JPEG")[:500], "image/jpeg"),
    }


def strange_url(random: random.Random) -> str:
    """A data URL that is nearly one."""
    good = base64.b64encode(random.choice(SEEDS)).decode()
    match random.randrange(9):
        case 0:
            at = random.randrange(len(good))
            data = good[:at] + random.choice('!@#$%^&*()-_=\n\t \\"é\u2028\x00.') + good[at + 1 :]
        case 1:
            data = good + "=" * random.randrange(1, 9)
        case 2:
            data = good[: random.randrange(len(good))]
        case 3:
            data = "".join(random.choices("ABCabc+/=-_ \n", k=random.randrange(200)))
        case 4:
            data = good.replace("+", "-").replace("/", "_")
        case 5:
            data = "%" + good
        case 6:
            data = "\n".join(good[at : at + 60] for at in range(0, len(good), 60))
        case 7:
            data = "A" * random.randrange(100_000)
        case _:
            data = good
    heads = [
        "data:image/png;base64,", "data:image/png;base64;base64,", "data:;base64,", "data:image/png,", "data:image/png;charset=utf-8;base64,",
        "DATA:image/png;BASE64,", "data:text/plain;base64,", "data:image/" + "x" * 300 + ";base64,", "data:image/png;base64", "data:", "",
        " data:image/png;base64,", "data://image/png;base64,", "data:image/png;base64,data:image/png;base64,", "data:%69mage/png;base64,",
    ]  # fmt: skip
    return random.choice(heads[:6]) + data if random.random() < 0.6 else random.choice(heads) + data


async def send_all(server: Attacked, urls: list[str]) -> tuple[Counter[int], list[str]]:
    """Each as a chat of its own, 16 at a time: how many of each status, and what was not in OpenAI's shape."""
    statuses: Counter[int] = Counter()
    odd: list[str] = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", timeout=aiohttp.ClientTimeout(60)) as session:

        async def one(index: int) -> None:
            content = [{"type": "image_url", "image_url": {"url": urls[index]}}]
            body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": content}]})
            headers = {"Content-Type": "application/json"}
            async with session.post("/v1/chat/completions", data=body.encode("utf-8", "replace"), headers=headers) as answer:
                text = await answer.text()
                statuses[answer.status] += 1
                if answer.status != 200 and set(json.loads(text)["error"]) != {"message", "type", "param", "code"}:
                    odd.append(text[:300])

        await gather_limited(len(urls), 16, one)
    return statuses, odd


@pytest.mark.parametrize(
    ("make", "count"),
    [(lambda random: url_of(mutated(random)), times(5000, 500)), (strange_url, times(5000, 500))],
    ids=["mutated pictures", "base64"],
)
def test_damaged_pictures_are_400_and_nothing_else(server: Attacked, make: Callable[[random.Random], str], count: int) -> None:
    """5,000 cases each (500 in the part): only 200 and 400, all errors in OpenAI's shape, memory bounded, and the server answers after it."""
    rng = random.Random(20261122)
    server.still_answers()
    before = server.resident_mebibytes()
    server.forget_the_peak()
    statuses, odd = asyncio.run(send_all(server, [make(rng) for _ in range(count)]))
    assert set(statuses) <= {200, 400}, statuses
    assert statuses[400] > count / 10
    assert not odd
    assert server.peak_mebibytes() - before <= MOST_MEBIBYTES
    server.still_answers()


def test_bombs_do_not_go_off(server: Attacked) -> None:
    """Enormous by their headers, by their text, by their frames: 200 or 400 within bounded memory, three times each at once."""
    server.still_answers()
    before = server.resident_mebibytes()
    server.forget_the_peak()
    named = bombs()
    statuses, odd = asyncio.run(send_all(server, list(named.values()) * 3))
    assert set(statuses) <= {200, 400}, statuses
    assert not odd
    for name in ("65,535 × 65,535 by its header", "10,000 × 10,000 in a few KB", "2,000 frames", "SVG", "TIFF", "nothing", "frames in a video"):
        status, body = server.chat([{"type": "image_url", "image_url": {"url": named[name]}}])
        assert (name, status) == (name, 400), body
    assert server.peak_mebibytes() - before <= MOST_MEBIBYTES
    server.still_answers()


def test_the_largest_pictures_of_many_clients_take_turns_in_memory(server: Attacked) -> None:
    """32 requests at once with one picture of 16 megapixels each would be 1.5 GB decoded together; at most 2 are in memory at a time."""
    server.still_answers()
    before = server.resident_mebibytes()
    server.forget_the_peak()
    statuses, _ = asyncio.run(send_all(server, [bombs()["4,000 × 4,000, allowed"]] * times(32, 12)))
    assert set(statuses) == {200}
    assert server.peak_mebibytes() - before <= MOST_MEBIBYTES
    server.still_answers()


def test_a_request_cannot_have_more_than_16_megapixels_in_all(server: Attacked) -> None:
    """8 pictures of 4,000 × 4,000 would be 128 megapixels."""
    part = {"type": "image_url", "image_url": {"url": bombs()["4,000 × 4,000, allowed"]}}
    status, body = server.chat([part] * 8)
    assert (status, b"together" in body) == (400, True)
