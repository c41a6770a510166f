"""Pictures from strangers."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deepseek_serving.engine import RequestError
from deepseek_serving.images import decode_image
from deepseek_serving.shapes import draw


def url_of(raw: bytes, type: str = "image/png") -> str:
    return f"data:{type};base64,{base64.b64encode(raw).decode()}"


def file_of(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_every_allowed_format_becomes_rgb(format: str, mode: str) -> None:
    picture = decode_image(url_of(file_of(Image.new(mode, (20, 10)), format)), max_megapixels=1)
    assert (picture.width, picture.height, len(picture.rgb)) == (20, 10, 600)


def test_a_drawn_picture_comes_through_pixel_by_pixel() -> None:
    drawn = draw(random.Random(3))
    assert decode_image(drawn.data_url, max_megapixels=1).rgb == drawn.image.tobytes()


def test_a_picture_is_turned_as_its_camera_says() -> None:
    """EXIF orientation 6, 20 × 10 → 10 × 20."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode_image(url_of(file_of(Image.new("RGB", (20, 10)), "JPEG", exif=exif.tobytes())), max_megapixels=1)
    assert (picture.width, picture.height) == (10, 20)


FRAMES = [Image.new("L", (4, 4), shade) for shade in (0, 255)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/cat.png", "not fetched"),
        ("http://169.254.169.254/latest/meta-data", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("//example.com/cat.png", "not fetched"),
        ("", "not fetched"),
        ("data:text/html;base64,PGh0bWw+", "of the form"),
        ("data:image/png,raw", "of the form"),
        ("data:,", "of the form"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,", "not one of PNG"),
        (url_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "not one of PNG"),
        (url_of(file_of(Image.new("RGB", (4, 4)), "TIFF"), "image/tiff"), "not one of PNG"),
        (url_of(file_of(Image.new("L", (2000, 1000)), "PNG")), "at most 1 megapixels"),
        (url_of(file_of(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "image/gif"), "one frame"),
        (url_of(file_of(Image.new("RGB", (64, 64)), "PNG")[:60]), "damaged"),
    ],
)
def test_everything_else_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        decode_image(url, max_megapixels=1)


def test_a_bomb_is_refused_by_its_header() -> None:
    """30,000 × 30,000 pixels in 110 kB: 900 megapixels are never decoded."""
    bomb = file_of(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises(RequestError, match=r"900|decoded|megapixels"):
        decode_image(url_of(bomb), max_megapixels=16)


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=8), seed=st.integers(0, 9))
def test_a_damaged_picture_is_refused_or_decoded_but_never_more(cut: int, flips: list[tuple[int, int]], seed: int) -> None:
    raw = bytearray(draw(random.Random(seed)).png)
    for position, value in flips:
        raw[position % len(raw)] = value
    try:
        picture = decode_image(url_of(bytes(raw[: max(cut, 8)])), max_megapixels=1)
    except RequestError:
        return
    assert len(picture.rgb) == picture.width * picture.height * 3
