"""The operator: it keeps a served model on as many GPU nodes as the next minutes of traffic need.

One tick serves the whole fleet (`controller.py`):

    Prometheus ── one query for all ──► demand ──► recommend ──► stabilize ──► decide ──► plan ──► Ray and Kubernetes
    forecaster ── one request ────────► forecast ─┘     (pure: core/)                      └──► status, events, metrics

`api` declares the custom resource, `core` decides and knows no clock or network, `edge` has one file per outside thing,
`replay` runs the same `decide()` over a recorded trace, `cli` is the command line.
"""

__version__ = "0.1.0"
