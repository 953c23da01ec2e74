"""What a worker tells of itself, as a scraper reads it."""

from dataclasses import asdict

import plain_http
import pytest
from prometheus_client.parser import text_string_to_metric_families
from worker_process import NAME, WorkerProcess

from penstock_contract.metrics import Kind
from penstock_contract.metrics import worker as declared
from penstock_contract.step_cost import STEP_MOMENTS, Totals, fit, scaled


def scrape(served: WorkerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return all samples by name: labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    text = plain_http.get(f"{served.url}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def generate(served: WorkerProcess, prompt: list[int], count: int) -> None:
    body = {"model": NAME, "prompt": prompt, "max_tokens": count, "ignore_eos": True}
    assert plain_http.post(f"{served.url}/v1/completions", json=body).status_code == 200


def test_after_a_request_every_series_has_its_labels(served: WorkerProcess) -> None:
    generate(served, [5] * 40, 4)
    found = scrape(served)
    for metric in declared.WORKER:
        suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
        for labels, _ in found[metric.exported_name + suffix]:
            assert set(labels) == set(metric.labels)
            assert labels.get("model_name", NAME) == NAME
            assert labels.get("engine", "0") == "0"


def test_old_names_say_the_same(served: WorkerProcess) -> None:
    generate(served, [6] * 40, 4)
    found = scrape(served)
    for metric, old in declared.OLD_NAMES.items():
        suffix = "_count" if metric.kind is Kind.HISTOGRAM else ""
        assert found[metric.exported_name + suffix] == found[old.exported_name + suffix]


def test_what_was_cached_is_not_counted_as_computed(served: WorkerProcess) -> None:
    generate(served, [7] * 65, 1)
    before = scrape(served)
    generate(served, [7] * 65, 1)
    after = scrape(served)

    def grown(name: str) -> float:
        return after[name][0][1] - before[name][0][1]

    assert grown("vllm:prompt_tokens_total") == 65
    assert grown("vllm:prompt_tokens_cached_total") == 64
    assert grown("vllm:request_prefill_kv_computed_tokens_sum") == 1


def test_step_costs_can_be_fitted_from_any_two_scrapes(served: WorkerProcess) -> None:
    def told() -> tuple[dict[str, float], Totals]:
        page = scrape(served)
        sums = {one["product"]: value for one, value in page["penstock_worker_step_moments_total"]}
        tokens = {one["kind"]: value for one, value in page["penstock_worker_step_tokens_total"]}
        steps, seconds, kv = (
            page[f"penstock_worker_step_{name}"][0][1]
            for name in ("seconds_count", "seconds_sum", "context_tokens_total")
        )
        return sums, Totals(steps, seconds, tokens["prefill"], tokens["decode"], kv)

    generate(served, [8] * 20, 3)
    before, first = told()
    for number in range(8):
        generate(served, [number, *[9] * (20 * number + 1)], 6)
    after, last = told()
    assert set(after) == set(STEP_MOMENTS)
    window = {name: after[name] - before[name] for name in after}
    now, then = asdict(last), asdict(first)
    totals = Totals(**{name: now[name] - then[name] for name in now})
    assert (totals.steps, totals.sequences) == (8 * 6, 8 * 5)
    cost = scaled(fit(window), totals)
    steps = totals.steps
    explained = cost.seconds(totals.prefill / steps, totals.sequences / steps, totals.kv / steps)
    assert explained == pytest.approx(totals.seconds / steps)


def test_the_cost_measured_at_start_is_told(served: WorkerProcess) -> None:
    terms = {
        labels["term"]: value
        for labels, value in scrape(served)["penstock_worker_step_cost_seconds"]
    }
    assert set(terms) == {"step", "prefill_token", "sequence", "kv_token"}
    assert sum(terms.values()) > 0
