"""The name of every metric the replicas write, once, and the PromQL that turns them into demand and capacity.

A replica writes through `ray.serve.metrics`; Ray puts `ray_` before each name, `_total` behind each counter, and the labels
`application`, `deployment` and `replica` beside ours. `Metric.exported` is the name as Prometheus knows it.
This file imports nothing heavy: the operator reads it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called, what it counts, its own labels with all their values (none: any), its histogram bounds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram's is without `_bucket`, `_sum`, `_count`."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def __str__(self) -> str:
        return self.exported


_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

KINDS = ("text", "image")
OUTCOMES = ("ok", "error", "cancelled", "late")
FINISH_REASONS = ("stop", "length")
STARTUP_PARTS = ("import", "load", "quantize", "warmup", "total")
DEGRADE_STEPS = ("max-output-tokens", "precision")

REQUESTS_OFFERED = Metric("deepseek_requests_offered", "counter", "Requests that arrived at the replica, before admission.", (("kind", KINDS),))
REQUESTS_REJECTED = Metric("deepseek_requests_rejected", "counter", "Requests that admission answered with 429 or 503.")
REQUESTS_FINISHED = Metric("deepseek_requests_finished", "counter", "Admitted requests that ended.", (("outcome", OUTCOMES),))
ANSWERS_ENDED = Metric(
    "deepseek_request_success", "counter", "Answers that came to their end (n of a request are n).", (("finished_reason", FINISH_REASONS),)
)
REQUESTS_UNAUTHORIZED = Metric(
    "deepseek_requests_unauthorized", "counter", "Requests without a valid API key; nobody's demand.", (("reason", ("key", "guessing")),)
)
REQUESTS_DEGRADED = Metric(
    "deepseek_requests_degraded", "counter", "Requests that got less than they asked for under overload.", (("step", DEGRADE_STEPS),)
)
DEGRADED = Metric("deepseek_degraded", "gauge", "1 while quality is given up for speed.")
REQUESTS_RUNNING = Metric("deepseek_num_requests_running", "gauge", "Requests being answered now.")
REQUESTS_WAITING = Metric("deepseek_num_requests_waiting", "gauge", "Requests waiting in the replica's queue now.")
PROMPT_TOKENS = Metric("deepseek_prompt_tokens", "counter", "Tokens read, image tokens included.")
IMAGE_TOKENS = Metric("deepseek_image_tokens", "counter", "Tokens that stood for pictures.")
GENERATION_TOKENS = Metric("deepseek_generation_tokens", "counter", "Tokens written.")
WORK_DONE = Metric("deepseek_work_done", "counter", "Units of work done; one answered request is one unit.")
ENGINE_BUSY_SECONDS = Metric(
    "deepseek_engine_busy_seconds", "counter", "Seconds in which the engine computed or pacing held answers back; 1 per second = saturated."
)
ENGINE_SLOTS = Metric("deepseek_engine_slots", "gauge", "Places in the engine's batch.", (("state", ("used", "free")),))
CACHE_USAGE = Metric("deepseek_kv_cache_usage_perc", "gauge", "Share of the room for keys and values in use, 0 to 1.")
QUEUE_TIME_SECONDS = Metric("deepseek_request_queue_time_seconds", "histogram", "Arrival to start of work.", boundaries=_SECONDS)
TIME_TO_FIRST_TOKEN_SECONDS = Metric("deepseek_time_to_first_token_seconds", "histogram", "Arrival to first token.", boundaries=_SECONDS)
INTER_TOKEN_LATENCY_SECONDS = Metric(
    "deepseek_inter_token_latency_seconds",
    "histogram",
    "Mean time from one token to the next within a request, one value a request.",
    boundaries=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
E2E_LATENCY_SECONDS = Metric("deepseek_e2e_request_latency_seconds", "histogram", "Arrival to last token.", boundaries=_SECONDS)
STARTUP_SECONDS = Metric(
    "deepseek_replica_startup_seconds", "gauge", "How long the parts of this replica's start took.", (("part", STARTUP_PARTS),)
)

ALL = (
    REQUESTS_OFFERED,
    REQUESTS_REJECTED,
    REQUESTS_FINISHED,
    ANSWERS_ENDED,
    REQUESTS_UNAUTHORIZED,
    REQUESTS_DEGRADED,
    DEGRADED,
    REQUESTS_RUNNING,
    REQUESTS_WAITING,
    PROMPT_TOKENS,
    IMAGE_TOKENS,
    GENERATION_TOKENS,
    WORK_DONE,
    ENGINE_BUSY_SECONDS,
    ENGINE_SLOTS,
    CACHE_USAGE,
    QUEUE_TIME_SECONDS,
    TIME_TO_FIRST_TOKEN_SECONDS,
    INTER_TOKEN_LATENCY_SECONDS,
    E2E_LATENCY_SECONDS,
    STARTUP_SECONDS,
)

SERVE_PROXY_ERRORS = "ray_serve_num_http_error_requests_total"
"""Written by Ray Serve's proxies: every answer ≥ 400 that passed them, a replica's own refusals included."""


def fleet_demand_query(window_seconds: int) -> str:
    """Offered load of every application that has one, in requests per second: one series per application, label `application`."""
    return _demand("", window_seconds)


def demand_query(application: str, window_seconds: int) -> str:
    """Offered load of one application, in requests per second: one series, label `application`."""
    return _demand(f"application={json.dumps(application)}", window_seconds)


def fleet_capacity_query(window_seconds: int) -> str:
    """What one saturated replica can do, in requests per second, learned from what the busy ones did: one series per application.

    finished ÷ busy: 12 requests/s finished by 4 replicas that were busy 0.5 s per second each → 12 ÷ (4 × 0.5) = 6 requests/s per replica.
    Silent while the replicas together were busy less than 5 % of one: a ratio of two small numbers says nothing.
    """
    window = _window(window_seconds)
    finished = f'sum by (application) (rate({REQUESTS_FINISHED}{{outcome="ok"}}{window}))'
    busy = f"sum by (application) (rate({ENGINE_BUSY_SECONDS}{window}))"
    return f"{finished} / ({busy} > 0.05)"


def fleet_token_demand_query(window_seconds: int) -> str:
    """Offered load of every application in tokens per second, prompts and answers together: one series per application.

    Requests that were refused have no tokens of their own; they count as many as the answered ones had on average:
    3 requests/s offered, 2 of them answered with 400 tokens/s read and written → 3 × 400 ÷ 2 = 600 tokens/s.
    """
    window = _window(window_seconds)
    tokens = f"sum by (application) (rate({PROMPT_TOKENS}{window})) + sum by (application) (rate({GENERATION_TOKENS}{window}))"
    finished = f'sum by (application) (rate({REQUESTS_FINISHED}{{outcome="ok"}}{window}))'
    return f"({fleet_demand_query(window_seconds)}) * ({tokens}) / ({finished} > 0)"


def _demand(matcher: str, window_seconds: int) -> str:
    """Each request once: counted where it arrived, or where it was turned away before it could arrive.

    A refusal by a replica passes a proxy on its way out, which counts it too; so the proxies' 429 and 503 minus the replicas' own refusals
    are the requests that no replica saw. The two are scraped at different moments: the difference may fall below zero and is cut there.
    Serve's label `application` is empty on the proxies' errors for unknown routes; such requests are nobody's demand.
    """
    window = _window(window_seconds)
    both = ",".join(part for part in (matcher, 'error_code=~"429|503"') if part)
    arrived = f"sum by (application) (rate({REQUESTS_OFFERED}{{{matcher}}}{window}))"
    refused = f"sum by (application) (rate({REQUESTS_REJECTED}{{{matcher}}}{window}))"
    at_proxies = f'sum by (application) (rate({SERVE_PROXY_ERRORS}{{{both},application!=""}}{window}))'
    unseen = f"clamp_min({at_proxies} - ({refused} or {at_proxies} * 0), 0)"
    # `a + b` drops an application that has only one of the two; the two `or`s keep both kinds.
    return f"({arrived} + {unseen}) or {arrived} or {unseen}"


def _window(seconds: int) -> str:
    if seconds < 1:
        raise ValueError(f"window_seconds must be at least 1, was {seconds}")
    return f"[{seconds}s]"
