"""Stands in for vLLM where there is no GPU: the same names, fields and generator behaviour as its V1 engine, and words instead of a model."""
