# `make demo` does the main job on real audio, `make test` proves it. Both set up all they need in
# .venv; nothing but Python 3.11 to 3.13, a C++ compiler and make has to be there.
# `make dev` is for working on the code: what is changed in Python is there at once, and `make dev`
# again compiles what was changed in C++.
# `make docs` builds the documents' site.
# `make sanitize-cpu` runs the native tests under sanitizers.
# On a machine with an NVIDIA GPU and nvcc, `make gpu` tests what needs them, `make sanitize` looks
# for bad memory accesses and races, and `make bench-gpu` fills the table of docs/benchmarks.md.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
# With the build tools of .venv. Those of an isolated build lie somewhere else every time, so that
# nothing that was compiled before could be used again.
BUILD = $(PIP) install -q --no-build-isolation -c constraints.txt
CUDA_SITE = build/cuda-site
NVCC = $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))

# The GPU targets' Python. Without one given, .venv with the libraries for a GPU; one that is given is
# taken as it is, and nothing is downloaded: `make gpu GPU_PYTHON=python3`.
ifeq ($(origin GPU_PYTHON),undefined)
GPU_PYTHON = $(BIN)/python
GPU_VENV = $(VENV)/gpu
else
GPU_PIP_FLAGS = --no-index
endif
GPU_SITE = build/gpu-site
GPU_RUN = PYTHONPATH=$(CURDIR)/$(GPU_SITE)$${PYTHONPATH:+:$$PYTHONPATH} FUSION_ENGINE_REQUIRE_GPU=1
# Not all of the tests, whose libraries need not be there.
GPU_TESTS ?= $(shell grep -rl --include='test_*.py' 'mark\.gpu' tests)
KERNEL_TESTS ?= $(wildcard tests/csrc/test_*_gpu.py)
SANITIZERS ?= memcheck racecheck
SANITIZER = $(firstword $(shell command -v compute-sanitizer 2>/dev/null) \
	$(wildcard /usr/local/cuda/bin/compute-sanitizer) compute-sanitizer)
# For example `make bench-gpu BENCH_FLAGS="--case gpu-cnn14-10s --output part.json"`.
BENCH_FLAGS ?=

# What `make sanitize-cpu` runs on the host code and on the kernels.
SANITIZE_TESTS ?= tests/csrc/test_hostile.py tests/csrc/test_layer_fusion.py tests/csrc/test_frontend.py \
	tests/csrc/test_kernels_on_cpu.py
# Not those that compare with the models' own frontends, which take most of the time.
SLOW_COMPARISONS = fp64 or torchlibrosa or transformers or planted or windows_and_hops
SANITIZE_BUILD = $(BUILD) --no-deps --upgrade -C cmake.build-type=None \
	-C cmake.define.FUSION_ENGINE_KERNELS_ON_CPU=ON

.PHONY: demo test dev docs lint types quick unit slow cuda sanitize-cpu sanitize-memory sanitize-threads \
	bench bench-corpus gpu sanitize bench-gpu clean

demo: export FUSION_ENGINE_CUDA ?= OFF
demo: $(VENV)/demo
	$(BIN)/python examples/demo.py

# What keeps one core busy runs beside its like, the tests after it on all of them.
test: $(VENV)/test
	$(MAKE) -j2 --output-sync lint types cuda sanitize-cpu
	$(MAKE) unit

# Without optimisation at link time, which would compile all of it again. Rebuilding at import would
# compile in whichever process comes first, and fail there.
dev: export FUSION_ENGINE_CUDA ?= OFF
dev: $(VENV)/tools
	rm -f $(VENV)/demo $(VENV)/test
	$(BUILD) -C build-dir=build/dev -C cmake.define.CMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF \
		-e ".[cpu,export,test]"

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu')

# On the installed package, not on the sources: three folders make it up.
types: $(VENV)/test
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p fusion_engine
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml ../tests/typed.py
	cd $(VENV) && bin/stubtest --mypy-config-file ../pyproject.toml \
		--allowlist ../tests/csrc/stub_allowlist.txt fusion_engine._core

# The documents as a site, in build/site.
docs: $(VENV)/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Two workers: most tests keep one core busy, and each worker holds a model or two. PyTorch's threads
# would wait busily for each other. The files run in the order of tests/conftest.py.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: $(VENV)/test
	$(PYTEST) -m "not slow"

# Every part of the code, without whole models, plans, wheels and clusters: a few minutes.
quick: $(VENV)/test
	$(PYTEST) -m "not (slow or heavy or rtx)"

# More models, precisions and lengths of what `unit` tests.
slow: $(VENV)/test
	$(PYTEST) -m slow

# Native tests on a build with every CUDA kernel for every architecture, and bounds on its machine code.
cuda: $(VENV)/test
ifeq ($(NVCC),)
	@echo "no nvcc: the CUDA kernels were not compiled"
else
	FUSION_ENGINE_CUDA=ON $(BUILD) --no-deps --upgrade --target $(CUDA_SITE) -C build-dir=build/cuda .
	$(PIP) install -q -c constraints.txt nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	PYTHONPATH=$(CUDA_SITE) $(BIN)/python -m pytest tests/csrc/test_core.py tests/csrc/test_hostile.py \
		tests/csrc/test_sass.py
endif

# The native tests on builds that stop at a bad access, undefined behaviour or a race; CUDA's threads
# are the CPU's there. Python and NumPy are not instrumented, so the runtime is loaded before them;
# leaks of theirs are not ours. An allocation that is too big is a MemoryError here as elsewhere.
sanitize-cpu: sanitize-memory sanitize-threads

sanitize-memory sanitize-threads: export FUSION_ENGINE_CUDA = OFF
sanitize-memory: $(VENV)/test
	$(SANITIZE_BUILD) --target build/asan-site -C build-dir=build/asan \
		-C cmake.define.FUSION_ENGINE_SANITIZE="address,undefined" .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=build/asan-site \
		$(BIN)/python -m pytest $(SANITIZE_TESTS) -k "not ($(SLOW_COMPARISONS))"

sanitize-threads: $(VENV)/test
	$(SANITIZE_BUILD) --target build/tsan-site -C build-dir=build/tsan \
		-C cmake.define.FUSION_ENGINE_SANITIZE=thread .
	LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
		TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:allocator_may_return_null=1 \
		PYTHONPATH=build/tsan-site $(BIN)/python -m pytest tests/csrc/test_hostile.py \
		tests/csrc/test_kernels_on_cpu.py -k "threads or kind or kernels_on_cpu"

bench: $(VENV)/test
	$(PIP) install -q -c constraints.txt openvino
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py --readme

# Takes about 40 minutes and 4 GB of disk in $$TMPDIR.
bench-corpus: $(VENV)/test
	$(BIN)/python benchmarks/run.py --suite corpus
	$(BIN)/python benchmarks/report.py --readme

gpu: $(GPU_SITE)/built
	$(GPU_RUN) $(GPU_PYTHON) -m pytest -m gpu --continue-on-collection-errors $(GPU_TESTS)

# PyTorch's cache of memory would hide a read past the end of a tensor.
sanitize: $(GPU_SITE)/built
	set -e; for tool in $(SANITIZERS); do \
		$(GPU_RUN) PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --tool $$tool --error-exitcode 1 \
			$(GPU_PYTHON) -m pytest -m gpu $(KERNEL_TESTS); \
	done

# The table is of all cases, whether or not one of them failed.
bench-gpu: $(GPU_SITE)/built
	$(GPU_RUN) $(GPU_PYTHON) benchmarks/run.py --suite gpu $(BENCH_FLAGS); status=$$?; \
		$(GPU_RUN) $(GPU_PYTHON) benchmarks/report.py --readme && exit $$status

SOURCES := pyproject.toml constraints.txt CMakeLists.txt \
	$(shell find cmake csrc engine export python -type f -not -name '*.pyc' -not -name '*.so')

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

# What an isolated build would download, also for the test libraries that come as sources.
$(VENV)/tools: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt "scikit-build-core>=0.11" "pybind11>=2.13" "cmake>=3.24" ninja \
		setuptools wheel
	touch $@

$(VENV)/demo: $(VENV)/tools $(SOURCES)
	$(BUILD) ".[cpu,export]"
	touch $@

# Without CUDA: what a machine without nvcc builds.
$(VENV)/test: export FUSION_ENGINE_CUDA = OFF
$(VENV)/test: $(VENV)/tools $(SOURCES)
	$(BUILD) ".[cpu,export,test]"
	touch $@

$(VENV)/gpu: $(VENV)/test
	$(PIP) uninstall -q -y onnxruntime
	$(PIP) install -q -c constraints.txt "onnxruntime-gpu[cuda,cudnn]>=1.24" "tensorrt-cu13>=10.13"
	touch $@

# The package for this machine's GPU, with every CUDA kernel, beside the one of the other targets.
$(GPU_SITE)/built: $(GPU_VENV) $(SOURCES)
	FUSION_ENGINE_CUDA=ON $(GPU_PYTHON) -m pip --disable-pip-version-check install -q --no-deps \
		--no-build-isolation --upgrade --target $(GPU_SITE) -C build-dir=build/gpu $(GPU_PIP_FLAGS) .
	touch $@

clean:
	rm -rf $(VENV) build
