# `make run` and `make test` need only Python 3.11 and install all they need in the current environment.
PYTHON ?= python3
# Elsewhere than on PyPI, PyTorch offers a build without CUDA that is a tenth of the size: install
# it first to save the download; the requirement below is then satisfied.
TORCH ?= torch==2.13.0

.PHONY: run test install types lint clean

install:
	$(PYTHON) -m pip install --quiet $(TORCH)
	$(PYTHON) -m pip install --quiet -e '.[dev]'

run: install
	$(PYTHON) -m hwnas run

test: install
	$(PYTHON) -m pytest -q

# mypy does not follow the mapping of top-level folders into the package: it reads a copy.
types:
	rm -rf build/typed
	$(PYTHON) -m pip install --quiet --no-deps --target build/typed .
	cd build/typed && $(PYTHON) -m mypy --config-file ../../pyproject.toml -p hwnas

lint:
	ruff check .
	ruff format --check .

clean:
	rm -rf build dist *.egg-info
