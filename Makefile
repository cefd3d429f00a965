# Every target sets up what it needs; each works again when run twice.
#   make demo    the main job: score, sort, stream and train on real text
#   make test    build sdist and wheel, install the wheel in a clean venv, run pytest and ctest against it
#   make lint    ruff, mypy, clang-format, clang-tidy and the strict documentation build
#   make bench   the ops against their rivals      make docs    the site under site/    make clean
#   make bench-data   the loader against other loaders, on this machine
#   make soak    damaged and forged files, kills and resumes at random for MINUTES=10
#   make sanitize    the C++ tests of files, loader and threads under SANITIZE=address,undefined, or thread
#   make fuzz    shards mutated by libFuzzer, under both sanitizers, for MINUTES=10; needs Clang, CLANG=clang++

PYTHON ?= $(shell .ci/find-python)
ROOT := $(CURDIR)
VENV := .venv
BIN := $(VENV)/bin
CLEAN_VENV := build/test-venv
BENCH_VENV := build/bench-venv
BENCH_BIN := $(BENCH_VENV)/bin
WHEEL_BUILD := build/wheel
# Processes that run tests side by side; 0 for the tests that need all the memory.
JOBS ?= 2
# How long to soak, or to fuzz.
MINUTES ?= 10
# What GCC checks at run time, and the compiler that has libFuzzer.
SANITIZE ?= address,undefined
CLANG ?= clang++
# What rivals of the benchmarks want contradicts the pins of all else: these have an environment and pins of their own.
BENCH_PINS := $(ROOT)/benchmarks/constraints.txt
BENCH_INSTALL := PIP_CONSTRAINT=$(BENCH_PINS) PIP_BUILD_CONSTRAINT=$(BENCH_PINS) \
	$(BENCH_BIN)/pip install --quiet --no-compile --disable-pip-version-check
# Python compiles what is imported, in place of pip all that is installed: that alone took longer than the rest of pip.
INSTALL := install --quiet --no-compile --disable-pip-version-check -c $(ROOT)/constraints.txt
unexport PYTHONDONTWRITEBYTECODE
# Build environments take their pins from here too (one name for older pips, one for newer).
export PIP_CONSTRAINT := $(ROOT)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(ROOT)/constraints.txt
# No advertisement for a successor of MkDocs.
export NO_MKDOCS_2_WARNING := 1

SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
	$(shell find csrc kernels fluxcore trainers -type f -not -name '*.pyc')
WHEEL := $$(ls dist/*.whl)

.PHONY: demo test lint bench bench-data soak sanitize fuzz docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/fluxcore demo $(ARGS)

# The C++ tests link the objects that the wheel was made of: nothing of the core is compiled twice.
test: $(CLEAN_VENV)/.ready
	PATH="$(ROOT)/$(BIN):$$PATH" cmake -S . -B build/cpp -G Ninja -DFLUXCORE_PYTHON=OFF -DFLUXCORE_TESTS=ON \
		-DFLUXCORE_BUILT_CORE="$(ROOT)/$(WHEEL_BUILD)"
	$(BIN)/ninja -C build/cpp
	$(BIN)/ctest --test-dir build/cpp --output-on-failure
	outside=$$(mktemp -d) && cd "$$outside" && \
		"$(ROOT)/$(CLEAN_VENV)/bin/pytest" -c "$(ROOT)/pyproject.toml" --rootdir "$(ROOT)" "$(ROOT)/tests" \
		-n $(JOBS) --dist loadfile $(ARGS); \
		status=$$?; rm -rf "$$outside"; exit $$status

lint: $(VENV)/.tools $(CLEAN_VENV)/.ready
	PATH="$(ROOT)/$(BIN):$$PATH" cmake -S . -B build/lint -G Ninja -DFLUXCORE_TESTS=ON -DFLUXCORE_LINT=ON \
		-DPython_EXECUTABLE="$(ROOT)/$(BIN)/python" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	PATH="$(ROOT)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure
	$(BIN)/mkdocs build --strict --quiet

bench: $(BENCH_VENV)/.ready
	$(BENCH_BIN)/pytest benchmarks -c benchmarks/pytest.ini --benchmark-json=build/benchmarks.json $(ARGS)

bench-data: $(BENCH_VENV)/.ready
	rm -f build/bench-data.jsonl
	$(BENCH_BIN)/python -m benchmarks.data --out build/bench-data.jsonl $(ARGS)

soak: $(CLEAN_VENV)/.ready
	cd tests && "$(ROOT)/$(CLEAN_VENV)/bin/python" -m soak --minutes $(MINUTES) $(ARGS)

sanitize: $(VENV)/.created
	PATH="$(ROOT)/$(BIN):$$PATH" cmake -S . -B build/sanitize-$(SANITIZE) -G Ninja -DFLUXCORE_PYTHON=OFF \
		-DFLUXCORE_TESTS=ON -DFLUXCORE_SANITIZE=$(SANITIZE) -DCMAKE_CXX_FLAGS_RELEASE=-O1
	$(BIN)/ninja -C build/sanitize-$(SANITIZE) fluxcore_core_tests
	$(BIN)/ctest --test-dir build/sanitize-$(SANITIZE) -L core --output-on-failure

# What is found stands in build/fuzz, and so does the corpus, which the next run goes on with.
fuzz: $(VENV)/.created
	PATH="$(ROOT)/$(BIN):$$PATH" cmake -S . -B build/fuzz -G Ninja -DFLUXCORE_PYTHON=OFF -DFLUXCORE_FUZZ=ON \
		-DCMAKE_CXX_COMPILER=$(CLANG) -DFLUXCORE_SANITIZE=address,undefined -DCMAKE_CXX_FLAGS_RELEASE=-O1
	$(BIN)/ninja -C build/fuzz fuzz_shard fuzz_seeds
	mkdir -p build/fuzz/corpus
	build/fuzz/tests/cpp/fuzz/fuzz_seeds build/fuzz/seeds
	build/fuzz/tests/cpp/fuzz/fuzz_shard build/fuzz/corpus build/fuzz/seeds -max_total_time=$$((60 * $(MINUTES))) \
		-max_len=131072 -timeout=10 -print_final_stats=1 -artifact_prefix=build/fuzz/ $(ARGS)

docs: $(VENV)/.tools
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site

$(VENV)/.created: constraints.txt
	.ci/check-tools "$(PYTHON)"
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/pip $(INSTALL) build cmake ninja pybind11 scikit-build-core
	touch $@

# Without fluxcore, which neither the linters nor the site import: nothing is compiled for them.
$(VENV)/.tools: $(VENV)/.created
	$(BIN)/pip $(INSTALL) clang-format clang-tidy mypy pre-commit ruff mkdocs mkdocs-material "mkdocstrings[python]"
	touch $@

dist/.built: $(SOURCES) | $(VENV)/.created
	rm -rf dist $(WHEEL_BUILD)
	$(BIN)/python -m build --outdir dist -C build-dir="$(ROOT)/$(WHEEL_BUILD)" .
	touch $@

# Editable: in the checkout Python finds the folder `fluxcore` first, and then that is the package itself.
$(VENV)/.demo: $(SOURCES) $(VENV)/.created
	$(BIN)/pip $(INSTALL) --no-build-isolation -e ".[train,report]"
	touch $@

$(CLEAN_VENV)/.created: constraints.txt pyproject.toml | $(VENV)/.created
	"$(PYTHON)" -m venv --clear $(CLEAN_VENV)
	touch $@

# The wheel is reinstalled even when its version has not changed.
$(CLEAN_VENV)/.ready: dist/.built $(CLEAN_VENV)/.created
	$(CLEAN_VENV)/bin/pip $(INSTALL) "$(WHEEL)[train,report,test]"
	$(CLEAN_VENV)/bin/pip $(INSTALL) --no-deps --force-reinstall "$(WHEEL)"
	touch $@

# torchvision, which mosaicml-streaming imports, looks for CUDA beside a CPU build of PyTorch. The last release that does not
# asks for a PyTorch of its own time, and has no wheels for Python 3.12: there that rival's rows say that it cannot run.
$(BENCH_VENV)/.created: benchmarks/constraints.txt
	.ci/check-tools "$(PYTHON)"
	"$(PYTHON)" -m venv --clear $(BENCH_VENV)
	$(BENCH_INSTALL) -r benchmarks/constraints.txt
	$(BENCH_BIN)/python -c "import torchvision" 2>/dev/null || \
		env -u PIP_CONSTRAINT $(BENCH_BIN)/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.15.2 || \
		echo "No torchvision works here, so mosaicml-streaming will not: its rows will say so."
	touch $@

# Editable, as above, but compiled on its own: two environments in one build folder would undo each other's work.
$(BENCH_VENV)/.ready: $(SOURCES) $(BENCH_VENV)/.created
	$(BENCH_INSTALL) --no-build-isolation --no-deps --config-settings=build-dir=build/bench-cpp -e .
	touch $@
