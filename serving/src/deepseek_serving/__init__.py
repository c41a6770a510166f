"""Serves a quantized multimodal DeepSeek model with Ray Serve and an OpenAI-shaped API."""
