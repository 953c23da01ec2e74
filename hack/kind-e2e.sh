#!/usr/bin/env bash
# `make e2e` for people with Docker and kind: `make kind-e2e`. It builds the images, makes a kind cluster of its own,
# loads them into it, runs the same test as hack/e2e.sh, and removes the cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in docker kind kubectl; do
  command -v "$tool" >/dev/null || { echo "hack/kind-e2e.sh: $tool is not here" >&2; exit 1; }
done
version=$(sed -n 's/^appVersion: //p' charts/penstock/Chart.yaml)
needed=(operator gateway worker-example)
name=penstock-e2e

REGISTRY=ghcr.io/penstock-dev TARGETS="${needed[*]}" hack/images.sh "$version"
KUBECONFIG=$(mktemp)
export KUBECONFIG
trap 'kind delete cluster --name "$name"; rm -f "$KUBECONFIG"' EXIT
kind create cluster --name "$name" --wait 2m
for image in "${needed[@]}"; do
  kind load docker-image --name "$name" "ghcr.io/penstock-dev/penstock-$image:$version"
done
hack/e2e.sh "$@"
