"""Turns a text with pictures in it into token ids and pixels, as the model's own processor does, without what that repeats at each call.

A processor merges and validates its arguments anew for every request, which takes longer than the work itself. Here they are settled once, at
load: the image processor's own `_preprocess` is then called with the very arguments that it would be given. A processor for which that, on
three probes, does not give the same bits as calling it whole is called whole each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from deepseek_serving.engine import Picture

log = logging.getLogger(__name__)

Read = Callable[[str, Sequence[Picture]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""A text with a placeholder for each picture, and the pictures → token ids [tokens], and pixels [pictures, 3, height, width] by name."""

_PROBES = (((48, 48),), ((60, 40), (30, 50)), ((3, 1),))
"""Sizes (width, height) of the pictures of each probe: square, wide and tall, and one so thin that its channels cannot be guessed."""


class PictureReader:
    """What a multimodal processor does to a request. Thread-safe as far as the processor is."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._read: Read = self._whole
        direct = self._settled()
        if direct is not None and all(self._same(direct, sizes) for sizes in _PROBES):
            self._read = direct
        else:
            log.info("%s is called whole for each request: its parts alone do not give the same", type(processor).__name__)

    def read(self, text: str, pictures: Sequence[Picture]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `Read`."""
        return self._read(text, pictures)

    @property
    def direct(self) -> bool:
        """Whether the processor's parts are called, rather than the whole."""
        return self._read != self._whole

    def _whole(self, text: str, pictures: Sequence[Picture]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images = [_array(picture) for picture in pictures]
        # Channels are named: for a picture 1 or 3 pixels wide they could not be guessed from the shape.
        encoded = self._processor(text=[text], images=[images], return_tensors="pt", input_data_format="channels_last")
        pixels = {name: _pictures_first(tensor) for name, tensor in encoded.items() if name.endswith("pixel_values")}
        return encoded["input_ids"][0], pixels

    def _settled(self) -> Read | None:
        """The processor's parts with the arguments that they get; None where it has no such parts."""
        processor, tokenizer = self._processor, self._processor.tokenizer
        try:
            with _overheard(processor.image_processor) as heard:
                self._whole(processor.image_token, [_probe(_PROBES[0][0])])
            ((_, arguments),) = heard
            placeholder, tokens = processor.image_token, processor.replace_image_token({}, image_idx=0)
            preprocess = processor.image_processor._preprocess
        except Exception as error:  # whatever another library's parts raise: the whole processor is there
            log.debug("the processor's parts cannot be used: %s", type(error).__name__)
            return None

        def read(text: str, pictures: Sequence[Picture]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            ids = tokenizer(text.replace(placeholder, tokens))["input_ids"]
            encoded = preprocess([numpy.moveaxis(_array(picture), -1, 0) for picture in pictures], **arguments)
            pixels = {name: _pictures_first(tensor) for name, tensor in encoded.items() if name.endswith("pixel_values")}
            return torch.tensor(ids), pixels

        return read

    def _same(self, direct: Read, sizes: tuple[tuple[int, int], ...]) -> bool:
        """Whether both ways give the same bits for pictures of these sizes, text before, between and after them."""
        pictures = [_probe(size) for size in sizes]
        text = "a".join(["", *(self._processor.image_token for _ in pictures), " b"])
        try:
            ids, pixels = self._whole(text, pictures)
            other_ids, others = direct(text, pictures)
        except Exception as error:  # a processor may refuse such a size, and its parts may raise anything
            log.debug("calling the processor's parts failed: %s", type(error).__name__)
            return False
        return torch.equal(ids, other_ids) and {*pixels} == {*others} and all(torch.equal(pixels[name], others[name]) for name in pixels)


@contextmanager
def _overheard(image_processor: Any) -> Any:
    """The (positional, keyword) arguments of each call of `_preprocess` meanwhile."""
    heard: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    own = image_processor._preprocess

    def listening(*args: Any, **kwargs: Any) -> Any:
        heard.append((args, kwargs))
        return own(*args, **kwargs)

    image_processor._preprocess = listening
    try:
        yield heard
    finally:
        del image_processor._preprocess


def _probe(size: tuple[int, int]) -> Picture:
    width, height = size
    values = numpy.arange(width * height * 3, dtype=numpy.uint32) * 2654435761 >> 24  # Knuth's multiplicative hash: no two rows alike
    return Picture(width, height, values.astype(numpy.uint8).tobytes())


def _array(picture: Picture) -> numpy.ndarray[Any, Any]:
    return numpy.frombuffer(bytearray(picture.rgb), dtype=numpy.uint8).reshape(picture.height, picture.width, 3)


def _pictures_first(tensor: Any) -> torch.Tensor:
    """[1, pictures, 3, height, width] (some processors keep the request's own dimension) → [pictures, 3, height, width]."""
    whole: torch.Tensor = tensor.flatten(0, 1) if tensor.dim() == 5 else tensor
    return whole
