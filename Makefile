# `make demo` does the main job on real audio, `make test` proves it. Both set up all they need in
# .venv; nothing but Python 3.11 to 3.13, a C++ compiler and make has to be there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
CUDA_SITE = build/cuda-site
NVCC = $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))

.PHONY: demo test lint types unit cuda bench clean

demo: export FUSION_ENGINE_CUDA ?= OFF
demo: $(VENV)/demo
	$(BIN)/python examples/demo.py

test: lint types unit cuda

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

# On the installed package, not on the sources: three folders make it up.
types: $(VENV)/test
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p fusion_engine

unit: $(VENV)/test
	$(BIN)/python -m pytest

# The same native tests on a build with every CUDA kernel for every architecture.
cuda: $(VENV)/test
ifeq ($(NVCC),)
	@echo "no nvcc: the CUDA kernels were not compiled"
else
	FUSION_ENGINE_CUDA=ON $(PIP) install -q --no-deps --upgrade --target $(CUDA_SITE) .
	PYTHONPATH=$(CUDA_SITE) $(BIN)/python -m pytest tests/csrc
endif

bench: $(VENV)/test
	$(PIP) install -q -c constraints.txt openvino
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py --readme

SOURCES := pyproject.toml constraints.txt CMakeLists.txt \
	$(shell find csrc engine export python -type f -not -name '*.pyc' -not -name '*.so')

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(VENV)/bin/python $(SOURCES)
	$(PIP) install -q -c constraints.txt ".[cpu,export]"
	touch $@

# Without CUDA: what a machine without nvcc builds.
$(VENV)/test: export FUSION_ENGINE_CUDA = OFF
$(VENV)/test: $(VENV)/bin/python $(SOURCES)
	$(PIP) install -q -c constraints.txt ".[cpu,export,test]"
	touch $@

clean:
	rm -rf $(VENV) build
