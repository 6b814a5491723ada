# Two commands: `make demo` shows the main job, `make test` passes the tests. Both install what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TRITON := .venv-triton
VIEWER := .venv-viewer
ARGS   ?=

.PHONY: demo test coverage check install install-dev triton viewer system-demo system-test ohif bench bench-timeline bench-ingest bench-load bench-console bench-pull bench-segments fuzz axe clean

demo: $(VENV)/.installed system-demo triton
	$(BIN)/gateway demo $(ARGS)

# In the order in which they are written, for the same tree is to get the same answer; `pytest` by itself shuffles them.
test: $(VENV)/.installed-dev system-test triton viewer ohif axe check
	$(BIN)/pytest -n 2 --dist loadgroup -p no:randomly $(ARGS)

# Which lines no test reaches; what runs in processes of its own is not counted.
coverage: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist loadgroup --cov=gateway --cov-report=term:skip-covered $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev
triton: $(TRITON)/.installed

$(BIN)/pip:
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || deploy/system-packages python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .[dev]
	touch $@ $(VENV)/.installed

# NVIDIA Triton has an environment of its own: it needs numpy < 2 and torch, the gateway neither.
$(TRITON)/.installed: gateway/inference/tritonserver.py | $(VENV)/.installed
	$(BIN)/gateway models install-server --environment $(TRITON)
	touch $@

system-demo:
	@deploy/system-packages orthanc

system-test:
	@deploy/system-packages orthanc orthanc-dicomweb orthanc-python dcmtk dicom3tools libpixelmed-java plastimatch default-jre-headless postgresql strace nodejs npm chromium fonts-dejavu-core rsyslog-gnutls

ohif: tests/ohif/node_modules/.installed
tests/ohif/node_modules/.installed: tests/ohif/package-lock.json
	@if command -v npm >/dev/null; then cd tests/ohif && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/.installed; \
	else echo "npm is not here: the tests with OHIF's loader will be skipped"; fi

# OHIF beside the console, as npm has it.
viewer: $(VIEWER)/installed
$(VIEWER)/installed: gateway/web/viewer.py | $(VENV)/.installed
	@if command -v npm >/dev/null; then $(BIN)/gateway viewer install --folder $(VIEWER) && touch $@; \
	else echo "npm is not here: the tests with the viewer will be skipped"; fi

axe: tests/console/node_modules/.installed
tests/console/node_modules/.installed: tests/console/package-lock.json
	@if command -v npm >/dev/null; then cd tests/console && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/.installed; \
	else echo "npm is not here: the tests of who can use the console will be skipped"; fi

bench-timeline: $(VENV)/.installed-dev triton
	$(BIN)/python -m tests.benchmarks.timeline $(ARGS)

bench-ingest: $(VENV)/.installed-dev system-test
	$(BIN)/python -m tests.benchmarks.ingest $(ARGS)

bench-load: $(VENV)/.installed-dev system-test triton
	$(BIN)/python -m tests.benchmarks.storm $(ARGS)

bench-console: $(VENV)/.installed-dev system-test
	$(BIN)/python -m tests.benchmarks.console $(ARGS)
	$(BIN)/python -m tests.benchmarks.viewers

bench-pull: $(VENV)/.installed-dev system-test
	$(BIN)/python -m tests.benchmarks.pull $(ARGS)

bench-segments: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks.segments $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz $(ARGS)

clean:
	rm -rf $(VENV) $(TRITON) $(VIEWER) tests/ohif/node_modules tests/console/node_modules var
