"""The programs that answer, one file each; only the one that is asked for is imported."""

from __future__ import annotations

from deepseek_serving.engine import Engine
from deepseek_serving.settings import Engine as EngineName
from deepseek_serving.settings import ServingSettings


def make_engine(settings: ServingSettings) -> Engine:
    """The engine that the settings name, not yet started; one that this installation lacks says so when it starts."""
    name = settings.model.engine
    if name is EngineName.ECHO:
        from deepseek_serving.engines.echo import EchoEngine

        return EchoEngine()
    if name is EngineName.TRANSFORMERS:
        from deepseek_serving.engines.transformers import TransformersEngine

        return TransformersEngine(settings)
    from deepseek_serving.engines.vllm import VllmEngine

    return VllmEngine(settings)
