"""Requests made from the API's own description: 10,000 of them, valid and invalid, and every answer as the description says."""

from __future__ import annotations

import hypothesis
import pytest
import requests
import schemathesis
from hardening.rig import PATIENCE_SECONDS, Attacked, times
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, unsupported_method]
# A conversation takes four times as long to make up as a continuation, and both share the fields that matter.
OPERATIONS = [("POST", "/v1/chat/completions", 0.15), ("POST", "/v1/completions", 0.65), ("GET", "/v1/models/{model}", 0.2)]


@pytest.mark.parametrize(("method", "path", "share"), OPERATIONS)
def test_every_case_of_the_description_is_answered_as_it_says(server: Attacked, method: str, path: str, share: float) -> None:
    """10,000 cases in all (600 in the part), half of them breaking the schema on purpose."""
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    session = requests.Session()
    asked = 0

    @hypothesis.settings(
        max_examples=round(times(10_000, 600) * share),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=schema[path][method].as_strategy())
    def every_case(case: schemathesis.Case) -> None:
        nonlocal asked
        asked += 1
        case.call_and_validate(base_url=url, session=session, checks=CHECKS, timeout=PATIENCE_SECONDS)

    every_case()
    assert asked >= times(10_000, 600) * share * 0.9
    server.still_answers()
