"""One file per outside thing. Each turns what it finds into the core's words, and failures into values with a reason."""
