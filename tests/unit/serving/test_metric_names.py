"""Names and queries; that Ray and Prometheus agree with them is the end-to-end test's part."""

from __future__ import annotations

import pytest

from deepseek_serving import metric_names


def test_names_are_those_that_operator_and_dashboards_rely_on() -> None:
    assert {str(metric) for metric in metric_names.ALL} == {
        "ray_deepseek_requests_offered_total",
        "ray_deepseek_requests_rejected_total",
        "ray_deepseek_requests_finished_total",
        "ray_deepseek_request_success_total",
        "ray_deepseek_requests_unauthorized_total",
        "ray_deepseek_requests_degraded_total",
        "ray_deepseek_degraded",
        "ray_deepseek_engine_slots",
        "ray_deepseek_kv_cache_usage_perc",
        "ray_deepseek_inter_token_latency_seconds",
        "ray_deepseek_num_requests_running",
        "ray_deepseek_num_requests_waiting",
        "ray_deepseek_prompt_tokens_total",
        "ray_deepseek_image_tokens_total",
        "ray_deepseek_generation_tokens_total",
        "ray_deepseek_work_done_total",
        "ray_deepseek_engine_busy_seconds_total",
        "ray_deepseek_request_queue_time_seconds",
        "ray_deepseek_time_to_first_token_seconds",
        "ray_deepseek_e2e_request_latency_seconds",
        "ray_deepseek_replica_startup_seconds",
    }


def test_one_object_s_query_is_the_fleet_s_with_one_label_more() -> None:
    """Every selector of demand_query names the application; taking that out gives fleet_demand_query."""
    one = metric_names.demand_query("default.chat", 60)
    assert one.count('application="default.chat"') == one.count("rate(")
    assert one.replace('application="default.chat",', "").replace('application="default.chat"', "") == metric_names.fleet_demand_query(60)


def test_a_name_cannot_break_out_of_its_query() -> None:
    assert 'application="a\\"} or vector(1)"' in metric_names.demand_query('a"} or vector(1)', 60)


VLLM = {
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens", "generation_tokens", "request_success",
    "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
}  # fmt: skip


def test_what_vllm_measures_too_has_its_suffix() -> None:
    """vllm:num_requests_running is deepseek_num_requests_running here, and so on: one dashboard serves both."""
    assert {metric.name.removeprefix("deepseek_") for metric in metric_names.ALL} >= VLLM


def test_labels_have_few_values_whatever_clients_send() -> None:
    """Series of one replica, histogram buckets included: at most 1,000."""
    series = 0
    for metric in metric_names.ALL:
        combinations = 1
        for _, values in metric.labels:
            assert values, f"{metric} has a label without a list of its values"
            combinations *= len(values)
        series += combinations * (len(metric.boundaries) + 3 if metric.kind == "histogram" else 1)
    assert series <= 1000


@pytest.mark.parametrize("query", [metric_names.fleet_demand_query, metric_names.fleet_capacity_query, metric_names.fleet_token_demand_query])
def test_a_window_is_at_least_a_second(query: object) -> None:
    assert callable(query)
    with pytest.raises(ValueError, match="at least 1"):
        query(0)
