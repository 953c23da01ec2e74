"""Of two operators one acts, whatever happens to the other."""

from pathlib import Path

import plain_http
import pytest
from api_proxy import ApiProxy, Call
from fake_node import FakeNode
from kube import Access
from operated import NAME, Site, site
from operator_process import OperatorProcess
from waiting import eventually

LEASE = "penstock-operator"


def holder(found: Site) -> str:
    lease = found.kube.get("Lease", LEASE) or {}
    return str(lease.get("spec", {}).get("holderIdentity") or "")


@pytest.mark.timeout(900)
def test_an_operator_that_was_paused_past_its_lease_acts_no_more(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    with site(access, node, tmp_path) as first, ApiProxy(access) as proxy:
        first.apply()
        first.settle()
        was = holder(first)
        second = OperatorProcess(
            proxy.kubeconfig(tmp_path / "second.kubeconfig"),
            first.kube.namespace,
            tmp_path / "second.log",
            *("--gateway-url", first.gateway.url),
        )
        with second:
            second.wait_ready()
            assert proxy.writes == [], "it waits while another leads"
            first.operator.pause()
            eventually(lambda: holder(first) != was, "the other takes over")
            first.apply(image="worker:2")
            first.settle()
            assert proxy.writes
            stopped = len(first.proxy.writes)
            first.apply(image="worker:3")
            first.operator.resume()
            first.settle()
            first.quiet_for(2)
            assert [str(call) for call in first.proxy.writes[stopped:]] == []


@pytest.mark.timeout(900)
def test_only_the_operator_that_leads_explains(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    often = ("--scaling-interval", "1s")
    with site(access, node, tmp_path, *often) as found, ApiProxy(access) as proxy:
        second = OperatorProcess(
            proxy.kubeconfig(tmp_path / "second.kubeconfig"),
            found.kube.namespace,
            tmp_path / "second.log",
            *("--gateway-url", found.gateway.url, *often),
        )
        found.apply({"name": "default", "scaling": {"minReplicas": 2, "maxReplicas": 8}})
        found.settle()
        eventually(lambda: explains(found, found.operator), "it has decided")
        with second:
            second.wait_ready()
            assert not explains(found, second), "it waits while another leads"
            found.proxy.go_away()
            eventually(lambda: explains(found, second), "the other takes over")
            assert not explains(found, found.operator), "what it knew is out of date"


def explains(found: Site, operator: OperatorProcess) -> bool:
    url = f"http://127.0.0.1:{operator.port}/explain/{found.kube.namespace}/{NAME}"
    answer = plain_http.get(url)
    assert answer.status_code in (200, 404)
    return answer.status_code == 200


def test_an_operator_that_ends_in_order_hands_over_at_once(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    with site(access, node, tmp_path) as found:
        found.apply()
        found.settle()
        assert found.operator.stop() == 0
        assert holder(found) == ""


def test_an_operator_that_fails_hands_over_at_once(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    def garbage(call: Call, line: bytes) -> list[bytes]:
        return [b'{"type": "MODIFIED", "object": {}}'] if call.resource == "pods" else [line]

    with site(access, node, tmp_path) as found:
        found.apply()
        found.settle()
        assert holder(found)
        found.proxy.edit = garbage
        found.apply({"name": "default", "replicas": 3})
        eventually(lambda: not found.operator.alive, "it ends")
        assert found.operator.stop() != 0
        assert holder(found) == ""
