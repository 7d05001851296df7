# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are all that is needed; each installs what it is missing.
# On a fresh Debian 12 or 13, as root, with git, make and Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# what the throwaway systems of the tests and the demo are made with; readelf and eu-elflint to
# compare with
LAB_PACKAGES := mmdebstrap debian-archive-keyring systemd-container util-linux binutils elfutils gnupg
# what packages are built with; lintian checks them
DEB_PACKAGES := dpkg-dev debhelper dh-python
RPM_PACKAGES := rpm
# what manual pages and completions are tried with
MANUAL_PACKAGES := mandoc man-db zsh fish
# what programs of unusual layouts are built with; another machine's run in qemu-user
LAYOUT_PACKAGES := gcc libc6-dev musl-tools
OTHER_MACHINES := qemu-user
# $(call need,COMMANDS,PACKAGES): install the packages if a command is missing
need = for tool in $(1); do command -v $$tool >/dev/null || missing=1; done; \
    test -z "$$missing" || { apt-get update -q && apt-get install -qy --no-install-recommends $(2); }
PYTEST := $(BIN)/python -m pytest
# half of the time is waiting; the tests of a file share what they have made
PARALLEL := --numprocesses=2 --dist=loadfile

.PHONY: demo test test-distributions reliability faults load races endurance fuzz bench check unit
.PHONY: generated dist deb rpm clean lab-packages package-tools manual-tools layout-tools

demo: $(READY) lab-packages
	$(BIN)/holdover demo

test: $(READY) lab-packages package-tools manual-tools layout-tools check
	$(PYTEST) $(PARALLEL) $(PYTEST_OPTIONS)

test-distributions: $(READY) lab-packages package-tools
	$(PYTEST) -m distributions $(PYTEST_OPTIONS)

# hours; each of them writes what it saw to the page
REPORT := --report docs/reliability.md

reliability: faults load races endurance fuzz

faults: $(READY) lab-packages
	$(PYTEST) --numprocesses=2 --rounds=1 $(REPORT) tests/e2e/test_faults.py

races: $(READY) lab-packages layout-tools
	@$(call need,qemu-aarch64,$(OTHER_MACHINES))
	$(PYTEST) $(patsubst %,tests/system/test_%.py,environment races layouts) \
	    tests/e2e/test_bad_moments.py --rounds 300 $(REPORT)

# every parser, guided by coverage: half an hour on two cores; FUZZ_OPTIONS names targets
FUZZ_SECONDS ?= 50
fuzz: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(REPORT) $(FUZZ_OPTIONS)

# guests at work, adopted and released a thousand times
load: $(READY) lab-packages
	$(PYTEST) tests/e2e/test_load.py --rounds 1000 $(REPORT) $(PYTEST_OPTIONS)

endurance: $(READY) lab-packages
	$(PYTEST) tests/e2e/test_endurance.py --rounds 200 $(REPORT) -s $(PYTEST_OPTIONS)

# figures beside those of neighbours; BENCH_OPTIONS=--json for programs, --plot docs for the plot
bench: $(READY) lab-packages
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]'
	@$(BIN)/python -m benchmarks $(BENCH_OPTIONS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)
	$(PYTEST) tests/unit

# manual pages and completions, from the definitions in the code; a test says when they are old
generated: $(READY)
	$(BIN)/python -m manual

$(READY): pyproject.toml
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { apt-get update -q && apt-get install -qy --no-install-recommends python3-venv; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

lab-packages:
	@test -f /usr/share/keyrings/debian-archive-keyring.gpg || missing=1; \
	$(call need,mmdebstrap systemd-nspawn setpriv readelf eu-elflint gpg,$(LAB_PACKAGES))

layout-tools:
	@$(call need,gcc musl-gcc,$(LAYOUT_PACKAGES))

manual-tools:
	@$(call need,mandoc man zsh fish,$(MANUAL_PACKAGES))

package-tools:
	@$(call need,dpkg-buildpackage dh dh_python3 rpmbuild lintian, \
	    $(DEB_PACKAGES) $(RPM_PACKAGES) lintian)

dist: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# packages for Debian and for systems with rpm; both need no network, no git and no compiler
deb:
	@$(call need,dpkg-buildpackage dh dh_python3,$(DEB_PACKAGES))
	packaging/build-deb dist

rpm:
	@$(call need,rpmbuild,$(RPM_PACKAGES))
	packaging/build-rpm dist

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
