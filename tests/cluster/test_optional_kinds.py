"""Kinds that come to a cluster after the operator are found without a restart."""

import pod_monitors
from kube import Kube, Object
from operated import Site
from waiting import eventually


def monitors(kube: Kube) -> list[Object]:
    path = f"/apis/monitoring.coreos.com/v1/namespaces/{kube.namespace}/podmonitors"
    found: list[Object] = kube.http.get(path).raise_for_status().json()["items"]
    return found


def test_a_kind_that_is_installed_later_is_used_and_missed_when_it_goes(
    watchful: Site, kube: Kube
) -> None:
    if kube.get("CustomResourceDefinition", pod_monitors.NAME) is not None:
        pod_monitors.forget(kube)
    watchful.apply()
    watchful.settle()
    pod_monitors.serve(kube)
    try:
        eventually(lambda: monitors(watchful.kube), "a PodMonitor")
        watchful.quiet_for(5)
    finally:
        pod_monitors.forget(kube)
    watchful.apply(image="worker:2")
    watchful.settle()
    watchful.quiet_for(5)
    assert watchful.operator.alive
