# Everything from a bare clone, with Python >= 3.10 and make. `make run` trains and compares; `make test` tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ECOSYSTEM := .venv-ecosystem
HARNESSES := lmms-eval vlmevalkit vlmevalkit-2025
READY := $(VENV)/.ready

.PHONY: run test test-slow test-cuda test-ecosystem test-harness check format clean

run: $(READY)
	$(BIN)/mutua quickstart

# Side by side on all cores, a file a process: so each process computes on one.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# On a machine with a CUDA device, what needs one.
test-cuda: $(READY)
	$(BIN)/python -m pytest -m cuda

# Inside other people's trainers and servers, in an environment of its own.
test-ecosystem: $(ECOSYSTEM)/.ready
	$(ECOSYSTEM)/bin/python -m pytest tests/ecosystem

# Inside the public harnesses, of which no two agree on what to install: an environment each.
test-harness: $(HARNESSES:%=.venv-harness/%/.ready)
	set -e; for harness in $(HARNESSES); do \
		.venv-harness/$$harness/bin/python -m pytest --confcutdir tests/harness tests/harness; done

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

# torch first and by its exact version: a range would take the newest build there is.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mutua needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(ECOSYSTEM)/.ready: pyproject.toml constraints.txt tests/ecosystem/requirements.txt
	test -d $(ECOSYSTEM) || $(PYTHON) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(ECOSYSTEM)/bin/python -m pip install --quiet --constraint constraints.txt \
		--requirement tests/ecosystem/requirements.txt --editable '.[dev]'
	touch $@

# torchvision from the registry is built for CUDA: with a torch that is not it cannot be imported. lmms-eval does without.
.venv-harness/%/.ready: tests/harness/%.txt tests/harness/constraints/%.txt pyproject.toml
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint tests/harness/constraints/$*.txt torch==2.13.0
	$(@D)/bin/python -m pip install --quiet --constraint tests/harness/constraints/$*.txt torch==2.13.0 \
		--requirement $< --editable .
	if test $* = lmms-eval; then $(@D)/bin/python -m pip uninstall --quiet --yes torchvision; fi
	touch $@

clean:
	rm -rf $(VENV) $(ECOSYSTEM) .venv-harness runs
