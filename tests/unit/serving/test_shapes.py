"""The drawn pictures and their captions."""

from __future__ import annotations

import random

from deepseek_serving.shapes import COLOURS, KINDS, PLACES, draw


def test_the_same_seed_draws_the_same_picture() -> None:
    assert draw(random.Random(5)).png == draw(random.Random(5)).png


def test_a_caption_names_each_shape_once_in_reading_order() -> None:
    """1,000 pictures: 1 to 3 shapes, each quarter at most once, first top left, last bottom right; every word is used."""
    rng = random.Random(11)
    words: set[str] = set()
    for _ in range(1000):
        drawn = draw(rng)
        assert 1 <= len(drawn.shapes) <= 3
        order = [list(PLACES).index(shape.place) for shape in drawn.shapes]
        assert order == sorted(set(order))
        assert drawn.caption == ", ".join(f"a {s.colour} {s.kind} at the {s.place}" for s in drawn.shapes) + "."
        words |= {word for shape in drawn.shapes for word in (shape.kind, shape.colour, shape.place)}
    assert words == {*KINDS, *COLOURS, *PLACES}


def test_a_shape_is_where_and_what_colour_its_caption_says() -> None:
    """In each named quarter the shape's colour covers at least 30 pixels, in each other quarter none."""
    rng = random.Random(12)
    for _ in range(200):
        drawn = draw(rng)
        by_place = {shape.place: shape for shape in drawn.shapes}
        for place, (x, y) in PLACES.items():
            quarter = drawn.image.crop((x - 12, y - 12, x + 12, y + 12))
            found = {colour: count for count, colour in quarter.getcolors(1000) or []}
            if place in by_place:
                assert found[COLOURS[by_place[place].colour]] >= 30
            else:
                assert not set(found) & set(COLOURS.values())
