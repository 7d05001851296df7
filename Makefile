# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are all that is needed; each installs what it is missing.
# On a fresh Debian 12 or 13, as root, with git, make and Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# what the throwaway systems of the tests and the demo are made with; readelf and eu-elflint to
# compare with
LAB_PACKAGES := mmdebstrap debian-archive-keyring systemd-container util-linux binutils elfutils
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-distributions bench check unit dist clean lab-packages

demo: $(READY) lab-packages
	$(BIN)/holdover demo

test: $(READY) lab-packages check
	$(PYTEST) $(PYTEST_OPTIONS)

test-distributions: $(READY) lab-packages
	$(PYTEST) -m distributions $(PYTEST_OPTIONS)

# figures beside those of neighbours; BENCH_OPTIONS=--json for programs
bench: $(READY) lab-packages
	@$(BIN)/python -m bench $(BENCH_OPTIONS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)
	$(PYTEST) tests/unit

$(READY): pyproject.toml
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { apt-get update -q && apt-get install -qy --no-install-recommends python3-venv; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

lab-packages:
	@for tool in mmdebstrap systemd-nspawn setpriv readelf eu-elflint; do \
	    command -v $$tool >/dev/null || missing=1; \
	done; \
	test -f /usr/share/keyrings/debian-archive-keyring.gpg || missing=1; \
	test -z "$$missing" || { apt-get update -q && \
	    apt-get install -qy --no-install-recommends $(LAB_PACKAGES); }

dist: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
