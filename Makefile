# `make demo` and `make test` do all the set-up they need: Python 3.11 and a C++ compiler are enough.
PYTHON ?= python3.11
SHOP   := demo/shop
DATA   ?= $(SHOP)
OUT    ?= demo/out
BIN    := .venv/bin
STAMP  := .venv/.installed
# nothing that the set-up runs comes without a hash: first the tools, then the rest, whose source packages they build
TOOLS  := -m pip install --quiet --require-hashes --only-binary :all: -r requirements-tools.lock
# compiled at once: a process that may not write bytecode would compile torch and pandas at each start, for seconds
LOCKED := --quiet --require-hashes --no-build-isolation --compile-bytecode
# of the test suite; each starts a JVM and needs 4 GiB
PROCESSES ?= 2

.PHONY: setup setup-s3 demo test faults test-hosts test-stores test-dbr test-next audit wheel lint format lock clean

setup: $(STAMP)

$(STAMP): requirements.lock requirements-tools.lock requirements-horovod.lock tools/install_horovod.py setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(TOOLS)
	$(BIN)/uv pip install $(LOCKED) --python $(BIN)/python -r requirements.lock
	$(BIN)/python tools/install_horovod.py
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m jobs.runtime.set_up
	touch $@

# Hadoop's connector of S3, 280 MB: for --out, --tables or inputs there, where no cluster brings one
setup-s3: setup
	$(BIN)/python -m jobs.runtime.set_up s3

demo: setup
	$(if $(filter $(SHOP),$(DATA)),test -d $(SHOP) || $(BIN)/ubp generate --out $(SHOP))
	$(BIN)/ubp run --data $(DATA) --out $(OUT) --config demo \
		$$(test -d $(DATA)/oracle && echo "--set probe.entries=[$(DATA)/oracle]")

test: lint
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

faults: setup
	$(BIN)/python -m pytest tests -m faults

# all stages on a server of S3's protocol, into a catalog, and into a store that only Spark reaches
test-stores: setup-s3
	$(BIN)/python -m pytest -m stores tests

# a cluster of network namespaces: root on Linux only
test-hosts: setup-s3
	$(BIN)/python -m pytest -m hosts tests/cluster

# the versions of Databricks Runtime 15.4 LTS ML, in an environment of their own
DBR := .venv-dbr/bin

test-dbr: .venv-dbr/.installed
	$(DBR)/python -m pytest -n $(PROCESSES) --dist loadfile

.venv-dbr/.installed: requirements-dbr.lock requirements-tools.lock requirements-horovod.lock tools/install_horovod.py setup.py
	test -x $(DBR)/python || $(PYTHON) -m venv .venv-dbr
	$(DBR)/python $(TOOLS)
	$(DBR)/uv pip install $(LOCKED) --python $(DBR)/python -r requirements-dbr.lock
	$(DBR)/python tools/install_horovod.py
	$(DBR)/uv pip install --quiet --python $(DBR)/python --no-deps --no-build-isolation --editable .
	$(DBR)/python -m jobs.runtime.set_up
	touch $@

# the versions after ours, where there is no Petastorm and no Horovod, in an environment of their own
NEXT := .venv-next/bin
PYTHON_NEXT ?= python3.12

test-next: .venv-next/.installed
	$(NEXT)/python -m pytest -n $(PROCESSES) --dist loadfile

.venv-next/.installed: requirements-next.lock requirements-tools.lock setup.py
	test -x $(NEXT)/python || $(PYTHON_NEXT) -m venv .venv-next
	$(NEXT)/python $(TOOLS)
	$(NEXT)/uv pip install $(LOCKED) --python $(NEXT)/python -r requirements-next.lock
	$(NEXT)/uv pip install --quiet --python $(NEXT)/python --no-deps --no-build-isolation --editable .
	$(NEXT)/python -m jobs.runtime.set_up
	touch $@

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# known vulnerabilities of the locked versions; fails where the service has no answer for one of them.
# Left out is what was read and is in no code that ubp runs (docs/threat-model.md, "Dependencies"): of Horovod, setuptools,
# diskcache, pyspark, torch, pytest
AUDITED  := requirements.lock requirements-tools.lock requirements-horovod.lock
ASSESSED := CVE-2024-10190 CVE-2026-31234 CVE-2024-6345 CVE-2025-47273 CVE-2026-59890 CVE-2025-69872 CVE-2025-54920 \
	CVE-2026-32773 CVE-2025-2999 CVE-2025-3000 CVE-2025-3001 CVE-2026-4538 CVE-2025-55551 CVE-2025-55552 CVE-2025-71176
# whom to ask, where the index is a mirror that has no vulnerabilities of single versions:
# make audit ASK="--vulnerability-service osv", with --osv-url URL for a mirror of OSV
ASK ?=

# one file at a time: pip-audit refuses what two of them name
audit: .venv-audit/.installed
	@for lock in $(AUDITED); do \
		.venv-audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement $$lock $(ASK) \
			$(addprefix --ignore-vuln ,$(ASSESSED)) && continue; \
		echo "make audit: $$lock did not pass."; \
		echo '"could not be audited": the index has no vulnerabilities of single versions; see ASK in the Makefile.'; \
		echo 'A vulnerability: raise the version, or say in docs/threat-model.md why it does no harm here.'; \
		exit 1; \
	done

.venv-audit/.installed: requirements-audit.lock
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements-audit.lock
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(BIN)/uv pip compile --quiet --generate-hashes requirements-tools.in -o requirements-tools.lock
	$(BIN)/uv pip compile --quiet --generate-hashes requirements-audit.in -o requirements-audit.lock
	$(BIN)/uv pip compile --quiet --generate-hashes requirements.in -o requirements.lock
	$(BIN)/uv pip compile --quiet --generate-hashes requirements-dbr.in -o requirements-dbr.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.12 requirements-next.in -o requirements-next.lock

clean:
	rm -rf .venv .venv-dbr .venv-next .venv-audit demo build dist *.egg-info
