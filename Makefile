# `make run` and `make test` need Python 3.11 or later; they install into the active virtual
# environment, or into .venv.
VIRTUAL_ENV ?= .venv
PYTHON = $(VIRTUAL_ENV)/bin/python
# Satisfied by whichever build of PyTorch is there already, the one without CUDA say.
TORCH ?= torch==2.13.0

.PHONY: run test install docs types lint clean

$(PYTHON):
	python3 -m venv $(VIRTUAL_ENV)

install: $(PYTHON)
	$(PYTHON) -m pip install --quiet $(TORCH)
	$(PYTHON) -m pip install --quiet -e '.[dev]'

run: install
	$(PYTHON) -m hwnas run

test: install
	$(PYTHON) -m pytest -q -n 2 --dist worksteal

docs: install
	$(PYTHON) -m sphinx -W --keep-going docs build/docs

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
