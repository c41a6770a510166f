"""Draws small pictures of coloured shapes with the one right caption of each: what the tiny model learns, and what test clients send.

Needs Pillow only. A picture is 48 × 48 RGB with one to three shapes, each in its own quarter, moved by up to 2 pixels:

>>> drawn = draw(random.Random(7))
>>> drawn.image.size
(48, 48)
>>> drawn.caption.startswith("a ")
True
"""

from __future__ import annotations

import base64
import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 48
"""Width and height of a picture, pixels."""

KINDS = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 50, 180),
    "black": (25, 25, 25),
}
PLACES = {
    "top left": (12, 12),
    "top right": (36, 12),
    "bottom left": (12, 36),
    "bottom right": (36, 36),
}
"""The quarters and their centres (x, y), in the order in which a caption names them."""

QUESTION = "What is in this picture?"
NO_PICTURE = "Please send a picture."
"""The tiny model's answer to a question without a picture."""

_JITTER = 2
_RADIUS = (8, 9)


@dataclass(frozen=True)
class Shape:
    """One shape: what, which colour, in which quarter."""

    kind: str
    colour: str
    place: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.kind} at the {self.place}"


@dataclass(frozen=True)
class Drawn:
    """A picture and what is on it."""

    image: Image.Image
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        """The only right answer to `QUESTION`."""
        return ", ".join(str(shape) for shape in self.shapes) + "."

    @property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        self.image.save(file, format="PNG")
        return file.getvalue()

    @property
    def data_url(self) -> str:
        """The picture as OpenAI's clients send it: `data:image/png;base64,…`."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def draw(rng: random.Random) -> Drawn:
    """Draw one picture; the same generator state gives the same picture."""
    taken = rng.sample(list(PLACES), rng.randint(1, 3))
    shapes = tuple(Shape(rng.choice(KINDS), rng.choice(list(COLOURS)), place) for place in PLACES if place in taken)
    grey = rng.randint(225, 255)
    image = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        x, y = (centre + rng.randint(-_JITTER, _JITTER) for centre in PLACES[shape.place])
        _paint(pen, shape, x, y, rng.randint(*_RADIUS))
    return Drawn(image, shapes)


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, x: int, y: int, radius: int) -> None:
    colour = COLOURS[shape.colour]
    if shape.kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape.kind == "square":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape.kind == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    else:
        arm = radius // 3
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
