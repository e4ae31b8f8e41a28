# Everything here sets itself up: Python 3.11, make and git are all that a machine needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
REFERENCE := .reference/.installed
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet

.PHONY: setup demo demo-long monitor test test-cluster bench reference lock clean

setup: $(INSTALLED)

$(VENV)/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11 as '$(PYTHON)'; or: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv

$(INSTALLED): requirements.lock $(VENV)/bin/uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements.lock
	touch $@

demo: setup  ## videos -> report on this machine, in one command
	$(BIN)/python -m jobs.pipeline --profile demo $(ARGS)

demo-long: setup  ## the same recipe with one to two hours of 2 cores
	$(BIN)/python -m jobs.pipeline --profile demo-long $(ARGS)

monitor: setup  ## TensorBoard, Prometheus, alerts and dashboards of the demo's run, before, during or after it
	$(BIN)/python -m cluster.monitor --profile demo $(ARGS)

test: setup $(REFERENCE)
	$(BIN)/python -m tests.clips
	$(BIN)/python -m tests.run $(ARGS)

test-cluster: setup  ## the tests that kill workers, nodes and servers or submit jobs; CI runs them too
	$(BIN)/python -m tests.clips
	$(BIN)/python -m tests.run --own-cluster $(ARGS)

$(REFERENCE): requirements-reference.lock $(INSTALLED)
	rm -rf .reference
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target .reference --no-deps --require-hashes -r requirements-reference.lock
	touch $@

reference: $(REFERENCE)

bench: setup $(REFERENCE)
	$(BIN)/python -m benchmarks.attack_reference

lock: $(VENV)/bin/uv
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) --no-deps requirements-reference.in -o requirements-reference.lock
	$(COMPILE) --no-deps requirements-gcp.in -o requirements-gcp.lock

clean:
	rm -rf $(VENV) .reference outputs
