# Every target sets up what it needs: a virtual environment, pinned dependencies and the package itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find csrc cmake fastmodel -type f ! -name '*.pyc' ! -name '*.so')
# The kernels for NVIDIA GPUs, run on the CPU, for the tests.
export FASTMODEL_CUDA_EMULATED ?= ON

.PHONY: bench bench-ops bench-steps bench-gpt bench-zoo results docs test gpu sanitize check format clean

bench: .venv/installed  ## train the CNN on MNIST twice, compare, write reports/mnist-cnn/
	$(BIN)/fastmodel bench mnist-cnn

bench-ops: .venv/installed  ## every op against PyTorch's best arm, write reports/ops/<op>.json
	$(BIN)/pytest benchmarks/ops --benchmark-columns=min,median,iqr --results=reports/ops $(BENCH)

STEPS = $(BIN)/fastmodel bench mnist-cnn --compile --train none --window-s 0.4
AVX2 = env FASTMODEL_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

bench-steps: .venv/installed  ## the CNN's training step at batch 64 and 512, and with both sides held to AVX2
	$(STEPS) --batch-size 64 --out reports/step-64
	$(STEPS) --batch-size 512 --out reports/step-512
	$(AVX2) $(STEPS) --batch-size 64 --out reports/step-64-avx2

bench-gpt: .venv/installed  ## the two small GPTs, trained for an epoch each
	for gpt in gpt gpt-llama; do $(BIN)/fastmodel bench $$gpt --epochs 1 --compile --rate-usd-per-h 0.085 --out reports/$$gpt || exit 1; done

MACHINE ?= epyc-2core
RESULTS = benchmarks/results/$(MACHINE)

results: bench-ops bench-steps bench-gpt  ## all of it into the committed results, and the documents from those
	mkdir -p $(RESULTS)/gpt
	cp reports/ops/*.json $(RESULTS)
	for step in step-64 step-512 step-64-avx2; do cp reports/$$step/report.json $(RESULTS)/$$step.json; done
	for gpt in gpt gpt-llama; do cp reports/$$gpt/report.json $(RESULTS)/gpt/$$gpt.json; done
	$(MAKE) docs

bench-zoo: .venv/installed  ## whole training steps of the zoo's networks, write reports/zoo/<network>.json
	PYTHONPATH=tests $(BIN)/python benchmarks/zoo/measure_zoo.py $(ZOO)

docs: .venv/installed  ## docs/kernels.md and the README's tables from the committed results
	$(BIN)/python benchmarks/ops/document.py
	PYTHONPATH=tests $(BIN)/python benchmarks/zoo/zoo_table.py

# Two workers: most of the suite is Python and waits for single processes. Threads that wait must sleep then:
# a team that spins takes the cores from the other worker's.
test: .venv/installed  ## the whole test suite
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist worksteal

# make gpu PYTHON=python3 RESULTS=folder: no network and no venv; GPU="--dry-run" lists the parts.
GPU_RESULTS = $(if $(findstring command,$(origin RESULTS)),$(RESULTS),reports/gpu)

gpu:  ## build against PYTHON, test and measure on this machine's GPU, write RESULTS/<part>.json
	$(PYTHON) benchmarks/gpu/run.py --results $(GPU_RESULTS) $(GPU)

sanitize: sanitize-address sanitize-thread  ## the suite over builds that watch memory, arithmetic and threads

sanitize-%: .venv/installed
	$(BIN)/python tests/sanitize.py $*

check: .venv/installed  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy

format: .venv/installed  ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

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
