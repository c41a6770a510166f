"""The programs that answer, one file each; only the one that is asked for is imported."""

from __future__ import annotations

from deepseek_serving.engine import Engine, LoadError
from deepseek_serving.settings import Engine as EngineName
from deepseek_serving.settings import ServingSettings


def make_engine(settings: ServingSettings) -> Engine:
    """The engine that the settings name, not yet started. Raises LoadError for one that this installation does not have."""
    name = settings.model.engine
    if name is EngineName.ECHO:
        from deepseek_serving.engines.echo import EchoEngine

        return EchoEngine()
    if name is EngineName.TRANSFORMERS:
        from deepseek_serving.engines.transformers import TransformersEngine

        return TransformersEngine(settings)
    raise LoadError(f"engine {name.value!r} is not part of this installation; allowed: transformers, echo")
