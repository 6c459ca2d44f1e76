# Every target sets up what it needs: a virtual environment, pinned dependencies and the package itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find csrc fastmodel -type f ! -name '*.pyc' ! -name '*.so')

.PHONY: bench bench-ops test sanitize check format clean

bench: .venv/installed  ## train the CNN on MNIST twice, compare, write reports/mnist-cnn/
	$(BIN)/fastmodel bench mnist-cnn

bench-ops: .venv/installed  ## every op against PyTorch's best arm, write reports/ops.json
	mkdir -p reports
	$(BIN)/pytest benchmarks/ops --benchmark-columns=min,median,iqr --benchmark-json=reports/ops-benchmark.json --results=reports/ops.json

test: .venv/installed  ## the whole test suite
	$(BIN)/pytest

sanitize: sanitize-address sanitize-thread  ## the suite over builds that watch memory, arithmetic and threads

sanitize-%: .venv/installed
	$(BIN)/python tests/sanitize.py $*

check: .venv/installed  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy

format: .venv/installed  ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format -i

clean:
	rm -rf .venv build dist

# The build tools first: without build isolation CMake's tree in build/ stays valid, so that a second
# install compiles only what changed.
.venv/tools: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt scikit-build-core pybind11 cmake ninja
	touch $@

.venv/installed: .venv/tools pyproject.toml CMakeLists.txt $(SOURCES)
	$(PIP) install --constraint constraints.txt --no-build-isolation '.[dev]'
	touch $@
