# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= demo-data
OUTPUT ?= outputs/demo
SEED ?= 0
# More words for the demo's commands, for instance DEMO_DATA="--identities 60 10 20" TRAIN="--num_train_epochs 2".
DEMO_DATA ?=
TRAIN ?=
SENTENCE ?= a woman in a green coat and a gray skirt with brown shoes

export TOKENIZERS_PARALLELISM = false
export HF_HUB_OFFLINE = 1

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: setup demo test lint fast-test test-lowest docs fuzz audit torture soak gpu-check clean

setup: .venv/tests-installed

.venv/installed: setup.cfg constraints.txt pyproject.toml
	@echo "Installing into .venv: one to two gigabytes, some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) .
	touch $@

.venv/tests-installed: .venv/installed
	$(PIP) '.[test]'
	touch $@

demo: .venv/installed
	@echo "1/5 Rendering people and their captions into $(DATA)"
	@$(BIN)/cffa-hf demo-data $(DATA) $(DEMO_DATA) --seed $(SEED)
	@echo "2/5 Training on them, 5 to 10 minutes on two CPU cores"
	@$(BIN)/cffa-hf train --config configs/demo.yaml --dataset_root $(DATA) --output_dir $(OUTPUT) --seed $(SEED) \
		--overwrite_output_dir true $(TRAIN)
	@echo "3/5 Evaluating on people that it has never seen"
	@$(BIN)/cffa-hf evaluate $(OUTPUT) --config configs/demo.yaml --dataset_root $(DATA) --report
	@echo "4/5 Embedding all pictures into a gallery"
	@$(BIN)/cffa-hf index $(DATA)/CUHK-PEDES/imgs $(OUTPUT)/gallery --checkpoint $(OUTPUT)
	@echo "5/5 Searching for \"$(SENTENCE)\""
	@$(BIN)/cffa-hf search $(OUTPUT)/gallery "$(SENTENCE)" --sheet $(OUTPUT)/found.png
	@echo "Done. Look at"
	@echo "  $(OUTPUT)/found.png     what the sentence found"
	@echo "  $(OUTPUT)/report.html   all results, with pictures"
	@echo "  $(OUTPUT)               the model: AutoModel.from_pretrained(\"$(OUTPUT)\")"
	@echo "Next: $(BIN)/cffa-hf search $(OUTPUT)/gallery \"a man with a red backpack\" --sheet found.png"

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

# The fast tests with the lowest versions that setup.cfg allows, which uv chooses (UV_TORCH_BACKEND=cpu: without CUDA).
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -m "not slow"

.venv-lowest/installed: setup.cfg
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet --resolution lowest-direct --editable '.[test]'
	touch $@

# The pages of docs/ and the reference of the code as a site; a broken link or reference ends it. site/index.html opens in a browser.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Mutated files of every kind that is read, for MINUTES; bugs are written to fuzz-failures.txt.
MINUTES ?= 60
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

# Known holes in the packages that are installed; without a network it says so and ends well.
audit: setup
	-$(PIP) '.[audit]'
	$(BIN)/python -m tests.audit

# Every command is killed KILLS times at random moments, looked at, and run again.
KILLS ?= 50
torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --kills $(KILLS)

# Trainings, evaluations, searches, requests and openings, repeated; fails if memory, files, threads or processes grow.
soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak

# All that needs a GPU, in one report of a page; without one it says so.
gpu-check: .venv/installed
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf .venv .venv-lowest $(DATA) outputs site
