# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= demo-data
OUTPUT ?= outputs/demo
SEED ?= 0
SENTENCE ?= a woman in a green coat and a gray skirt with brown shoes

export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE = 1

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: setup demo test lint fast-test fuzz soak gpu-check clean

setup: .venv/tests-installed

.venv/installed: setup.cfg constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) .
	touch $@

.venv/tests-installed: .venv/installed
	$(PIP) '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/cffa-hf demo-data $(DATA) --seed $(SEED)
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(shell nproc) \
		run_train.py --config configs/demo.yaml --dataset_root $(DATA) --output_dir $(OUTPUT) --seed $(SEED) \
		--overwrite_output_dir true
	$(BIN)/python run_eval.py $(OUTPUT) --config configs/demo.yaml --dataset_root $(DATA)
	$(BIN)/cffa-hf index $(DATA)/CUHK-PEDES/imgs $(OUTPUT)/gallery --checkpoint $(OUTPUT)
	$(BIN)/cffa-hf search $(OUTPUT)/gallery "$(SENTENCE)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes share the files of tests, and each computes with one thread, so that two cores are used throughout.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

fast-test: setup
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)

# Mutated files of every kind that is read, for MINUTES; bugs are written to fuzz-failures.txt.
MINUTES ?= 60
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

# Trainings, evaluations, searches, requests and openings, repeated; fails if memory, files, threads or processes grow.
soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak

# All that needs a GPU, in one report of a page; without one it says so.
gpu-check: .venv/installed
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf .venv $(DATA) outputs
