# make demo   see it all work          make test   run the tests        make test-slow   the tests that take minutes
# make check  formatter, linter, types, import contract                 make format      mend what they can
# make test-isa  the tests that compare numbers, with the instructions of other processors (hours)
#
# Each target makes .venv and installs what it needs first; PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

demo: .venv/.demo
	$(BIN)/detrkit demo

test: .venv/.dev
	$(BIN)/python -m pytest

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

# Without the instructions that this processor has and others lack, sums are taken in another order and round
# differently. `make test-isa ISAS=MKL_CBWR=COMPATIBLE THREADS=1 SUITES=tests/parity` runs less.
ISAS := ONEDNN_MAX_CPU_ISA=DEFAULT ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=SSE41 \
	ATEN_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=default MKL_CBWR=AVX2 MKL_CBWR=COMPATIBLE
THREADS := 1 2
SUITES := tests/parity tests/properties tests/guarantees tests/training

test-isa: .venv/.dev
	@failed=; for isa in $(ISAS); do for threads in $(THREADS); do \
		env $$isa OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest $(SUITES) || failed="$$failed $$isa/$$threads"; \
	done; done; test -z "$$failed" || { echo "failed with (instructions/threads):$$failed" >&2; exit 1; }

check: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The pinned versions of constraints.txt are the ones the tests were last run with; `pip install detrkit` is free.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@ .venv/.demo

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "detrkit needs Python 3.11 or newer; found none. Say where it is: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: demo test test-slow test-isa check format clean
