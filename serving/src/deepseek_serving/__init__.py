"""Serves a quantized multimodal DeepSeek model with Ray Serve and an OpenAI-shaped API.

A request's way: `openai` (HTTP shapes) → `admission` (bounded queue) → `engine` (deltas) → `pacing` → `openai` (whole or streamed answer);
`metrics` watches each step. A replica's start: `settings` → `loading` → `quantize` → `engines/*`, tied together in `app`.
The base install holds only `settings` and `metric_names`, which the operator shares; the rest needs the extra `runtime`.
"""
