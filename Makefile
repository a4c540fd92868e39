# make demo            make a data set, train, measure and draw
# make test            run the tests, in JOBS processes       make test-slow  run the tests that take minutes
# make test-durations  run the tests in one process and list all that take over 5 seconds (docs/testing.md)
# make test-isa        run the tests that compare numbers, with the instructions of other processors (hours)
# make coverage        run the tests and measure which lines they reach
# make check           formatter, linter, types, import contract; `make format` fixes the first two
# make check-js        types of the studio's JavaScript, by TypeScript (needs node)
# make docs            build the site into site/, warnings are errors; `make docs-serve` shows it while you write
#
# Each target makes .venv and installs what it needs first; PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

demo: .venv/.demo
	$(BIN)/detrkit demo

# Most of a test's time is spent in one thread, so one process per core is quicker than one process with all of them.
# Tests of one file share fixtures, and stay together.
JOBS := 2
IN_PARALLEL := --numprocesses $(JOBS) --dist loadfile

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL)

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow

test-durations: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=0 --durations-min=5

coverage: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-report=term --cov-report=xml --cov-report=html

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

TYPESCRIPT := typescript@5.9.3

check-js:
	npx --yes --package $(TYPESCRIPT) tsc --project tsconfig.json

docs: .venv/.dev
	$(BIN)/mkdocs build --strict

docs-serve: .venv/.dev
	$(BIN)/mkdocs serve

format: .venv/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The pinned versions of constraints.txt are the ones the tests were last run with; `pip install detrkit` is free.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[serve]"
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@# its opencv-python needs libGL, and would replace the headless one
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps trackers
	@touch $@ .venv/.demo

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "detrkit needs Python 3.11 or newer; found none. Say where it is: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv dist site htmlcov coverage.xml .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: demo test test-slow test-durations test-isa coverage check check-js docs docs-serve format clean
