"""Keeps a quantized multimodal DeepSeek model on as many GPU nodes as the next ten minutes of traffic need."""
