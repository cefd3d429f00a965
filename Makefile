# Every target sets up what it needs; each works again when run twice.
#   make demo    the main job: score, sort, stream and train on real text
#   make test    build sdist and wheel, install the wheel in a clean venv, run pytest and ctest against it
#   make lint    ruff, mypy, clang-format, clang-tidy and the strict documentation build
#   make bench   the benchmarks of this machine    make docs    the site under site/    make clean
#   make soak    damaged and forged files, kills and resumes at random for MINUTES=10

PYTHON ?= $(shell .ci/find-python)
ROOT := $(CURDIR)
VENV := .venv
BIN := $(VENV)/bin
CLEAN_VENV := build/test-venv
WHEEL_BUILD := build/wheel
# Processes that run tests side by side; 0 for the tests that need all the memory.
JOBS ?= 2
# How long to soak.
MINUTES ?= 10
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

.PHONY: demo test lint bench soak docs clean
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

bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks -c benchmarks/pytest.ini --benchmark-json=build/benchmarks.json $(ARGS)

soak: $(CLEAN_VENV)/.ready
	cd tests && "$(ROOT)/$(CLEAN_VENV)/bin/python" -m soak --minutes $(MINUTES) $(ARGS)

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
$(VENV)/.%: $(SOURCES) $(VENV)/.created
	$(BIN)/pip $(INSTALL) --no-build-isolation -e ".[$(if $(filter demo,$*),train$(,)report,$*)]"
	touch $@

$(CLEAN_VENV)/.created: constraints.txt pyproject.toml | $(VENV)/.created
	"$(PYTHON)" -m venv --clear $(CLEAN_VENV)
	touch $@

# The wheel is reinstalled even when its version has not changed.
$(CLEAN_VENV)/.ready: dist/.built $(CLEAN_VENV)/.created
	$(CLEAN_VENV)/bin/pip $(INSTALL) "$(WHEEL)[train,report,test]"
	$(CLEAN_VENV)/bin/pip $(INSTALL) --no-deps --force-reinstall "$(WHEEL)"
	touch $@

, := ,
