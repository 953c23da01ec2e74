"""The alerts fire when they should, as Prometheus' own rule tester sees it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_process
import pytest
import yaml
from chart_values import EVERYTHING
from helm import of_kind, render

pytestmark = pytest.mark.skipif(
    prometheus_process.binary() is None, reason=prometheus_process.MISSING
)
OUTCOMES = 'penstock_gateway_outcomes_total{model="m",outcome='
WORKERS = 'penstock_gateway_workers{deployment="ns/m",state='
BUCKETS = 'penstock_gateway_time_to_first_byte_seconds_bucket{model="m",le='
SIZED = 'penstock_autoscaler_metrics_healthy{namespace="ns",deployment="m",pool="p"}'

LEADING = {"penstock_operator_leader": "1x60"}
FIRES: dict[str, dict[str, str]] = {
    "PenstockRequestsFail": {OUTCOMES + '"error"}': "0+3x60", OUTCOMES + '"ok"}': "0+97x60"},
    "PenstockNoWorkerReady": {WORKERS + '"Ready"}': "0x60", WORKERS + '"Draining"}': "1x60"},
    "PenstockKVCacheFull": {'vllm:kv_cache_usage_perc{model_name="m"}': "0.97x60"},
    "PenstockFirstTokenSlow": {
        BUCKETS + '"10"}': "0+5x60", BUCKETS + '"20"}': "0+10x60", BUCKETS + '"+Inf"}': "0+10x60"
    },
    "PenstockMetricsDisagree": {
        'penstock_autoscaler_littles_law_difference{deployment="m"}': "0.4x60"
    },
    "PenstockScalesBlindly": {SIZED: "0x60"},
    "PenstockNobodyReconciles": {"penstock_operator_leader": "0x60"},
}  # fmt: skip
QUIET: dict[str, str] = {
    OUTCOMES + '"error"}': "0+1x60",
    OUTCOMES + '"ok"}': "0+99x60",
    WORKERS + '"Ready"}': "1x60",
    WORKERS + '"Draining"}': "1x60",
    'vllm:kv_cache_usage_perc{model_name="m"}': "0.9x60",
    BUCKETS + '"10"}': "0+10x60",
    BUCKETS + '"+Inf"}': "0+10x60",
    'penstock_autoscaler_littles_law_difference{deployment="m"}': "0.2x60",
    SIZED: "1x60",
    **LEADING,
}


def alerts() -> Iterator[str]:
    (rules,) = of_kind(render(EVERYTHING), "PrometheusRule")
    yield from (rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"])


def case(series: dict[str, str], firing: str) -> dict[str, Any]:
    """Return a test in which exactly one alert fires after half an hour, or none."""
    quiet = {} if "penstock_operator_leader" in series else LEADING
    return {
        "interval": "1m",
        "input_series": [{"series": k, "values": v} for k, v in {**series, **quiet}.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [{"labels": f'{{alertname="{firing}"}}', "value": 1}]
                if firing
                else [],
            }
        ],
    }


def test_every_alert_fires_when_it_should_and_none_when_all_is_well(tmp_path: Path) -> None:
    assert FIRES.keys() == set(alerts())
    (rules,) = of_kind(render(EVERYTHING), "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rules["spec"]["groups"]}))
    cases = [case(series, name) for name, series in FIRES.items()]
    tests = {"rule_files": ["rules.yaml"], "tests": [*cases, case(QUIET, "")]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool = Path(str(prometheus_process.binary())).with_name("promtool")
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
