#!/usr/bin/env bash
# The end-to-end test in a real cluster: `make e2e`.
#
# With KUBECONFIG: in that cluster, with images that it can pull: those of the chart's defaults, or of the Helm values
# in the file that PENSTOCK_E2E_VALUES names. Without: in a cluster that the script PENSTOCK_TEST_CLUSTER starts
# (`node` starts it and prints nothing else of interest, `image TAR` imports an image, `down` ends it), with images
# built here; KUBECONFIG is then what its `up` prints.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
version=$(sed -n 's/^appVersion: //p' charts/penstock/Chart.yaml)
images=$PWD/.cache/images
needed=(operator gateway worker-example)

if [ -z "${KUBECONFIG:-}" ]; then
  cluster=${PENSTOCK_TEST_CLUSTER:?set KUBECONFIG, or PENSTOCK_TEST_CLUSTER to a script that starts a cluster}
  began=$SECONDS
  REGISTRY=ghcr.io/penstock-dev TARGETS="${needed[*]}" hack/images.sh "$version" "$images"
  echo "images built in $((SECONDS - began)) s" >&2
  began=$SECONDS
  "$cluster" down
  trap '"$cluster" down' EXIT
  KUBECONFIG=$("$cluster" up | tail -1)
  export KUBECONFIG
  "$cluster" node
  for image in "${needed[@]}"; do "$cluster" image "$images/$image.tar" >&2; done
  echo "cluster started and images imported in $((SECONDS - began)) s" >&2
fi
PENSTOCK_E2E=1 "$python" -m pytest tests/e2e/cluster -m e2e_cluster "$@"
