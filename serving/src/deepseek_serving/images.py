"""Turns a `data:` URL into a picture: first the header, then the limits, and only then the pixels."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageOps, UnidentifiedImageError

from deepseek_serving.engine import Picture, RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

_STRIP_ROWS = 256
"""Rows converted at a time: all of 16 megapixels at once would take 170 MB instead of 70."""

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?P<parameters>(;[\w=.+-]+)*),", re.ASCII)


def check_image_url(url: str) -> None:
    """Raise RequestError unless `url` is a base64 `data:` URL: nothing is ever fetched for a client."""
    if not url[:5].lower() == "data:":
        raise _refusal("Remote images are not fetched. Send the image itself as a data URL: data:image/png;base64,<data>.", "image_url_refused")
    head = _DATA_URL.match("data:" + url[5:205])
    if head is None or not head["type"].startswith("image/") or ";base64" not in head["parameters"]:
        raise _refusal("image_url must be a data URL of the form data:image/png;base64,<data>.")


def measure_images(urls: list[str], max_megapixels: int) -> int:
    """Pixels of all of them together, by their headers alone. Raises RequestError where one or all are larger than allowed, or none."""
    pixels = 0
    for url in urls:
        with _opened(url, max_megapixels) as image:
            pixels += image.width * image.height
        if pixels > max_megapixels * 1_000_000:
            raise _refusal(f"The images have more than {max_megapixels} megapixels together.")
    return pixels


def decode_image(url: str, *, max_megapixels: int) -> Picture:
    """Decode a checked URL: one frame, RGB, turned upright. Raises RequestError with what is allowed; never anything else."""
    with _opened(url, max_megapixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        rgb = io.BytesIO()
        for top in range(0, image.height, _STRIP_ROWS):
            strip = image.crop((0, top, image.width, min(image.height, top + _STRIP_ROWS)))
            rgb.write(strip.convert("RGB").tobytes())
        return Picture(image.width, image.height, rgb.getvalue())


@contextmanager
def _opened(url: str, max_megapixels: int) -> Iterator[Image.Image]:
    """The image, its header read and its size checked, its pixels not yet decoded."""
    check_image_url(url)
    try:
        raw = base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise _refusal("The image's data is not valid base64.") from None
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            if image.width * image.height > max_megapixels * 1_000_000:
                raise _refusal(f"The image is {image.width} × {image.height} pixels; at most {max_megapixels} megapixels are allowed.")
            if getattr(image, "is_animated", False):
                raise _refusal("The image has more than one frame; send a single one.")
            yield image
    except RequestError:
        raise
    except UnidentifiedImageError:
        raise _refusal(f"The image is not one of {', '.join(FORMATS)}.") from None
    except Exception:
        # Decoders of damaged files raise whatever they meet (OSError, SyntaxError, struct.error, …); all of it means the same to the client.
        raise _refusal("The image is damaged and cannot be decoded.") from None


def _refusal(message: str, code: str = "invalid_image") -> RequestError:
    return RequestError(message, code=code, param="messages")
