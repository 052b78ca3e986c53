# make demo and make test work on a fresh Linux machine with Python >= 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_RUN ?= runs/demo

.PHONY: setup demo test test-all lint docs fix resolve clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "stin-pipe needs Python >= 3.11, $(PYTHON) is older; give another: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

demo: setup
	$(BIN)/stin-pipe demo --run $(DEMO_RUN)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

# Tests of one file share fixtures, so they stay in one process; slow ones measure and kill, one at a time.
test: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-all: test
	$(BIN)/python -m pytest -m slow

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pins must fit where pip takes torch's usual build, with CUDA, too; nothing is installed.
resolve: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/resolve .
	for version in 3.12 3.13; do for extras in dev,all cuda,all; do \
		$(BIN)/python -m pip install --quiet --dry-run --python-version $$version --only-binary=:all: --target build/resolve \
			-c constraints.txt "$$(ls build/resolve/stin_pipe-*.whl)[$$extras]" || exit 1; \
	done; done

clean:
	rm -rf build dist *.egg-info .ruff_cache .import_linter_cache .hypothesis
