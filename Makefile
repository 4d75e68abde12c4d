# fleetnet: `make demo` shows it, `make test` checks it. Both do all their own set-up, in .venv and
# .tools of this checkout; see CONTRIBUTING.md.
#
#   make demo [SECONDS=20]     server, store and real MicroPython devices, live
#   make test [STRICT=1]       every check; STRICT=1: whatever was skipped is a failure
#   make test ARGS="-k resend" arguments for pytest
#   make bench                 the figures of docs/benchmarks.md on this machine
#   make proof                 every fault of docs/proof.md in one table, four to five hours
#   make proof ARGS="--quick"  scaled down, five minutes; "--rows 4,9" these rows, "--list" which
#   make proof-cluster         three nodes, PostgreSQL, a broker, in network namespaces; as root
#   make release               dist/: archive, wheel, bill of materials, sums; see docs/releasing.md
#   make lock                  pin newer packages for the container
#   make docs [SERVE=1]        the documentation as a site, into site/; or served while it is written
#   make style | types | imports | unit    one check of make test alone
#   make clean                 remove what the builds and tests made (distclean: the set-up too)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo docs test bench proof proof-cluster release lock style types imports unit clean distclean setup-demo setup-test setup-bench setup-proof
unexport SECONDS

STRICT ?=
ARGS ?=
CHECKS = STRICT='$(STRICT)' .venv/bin/python tools/run_checks.py

help:
	@sed -n 's/^#   /  /p' Makefile

setup-demo setup-test setup-bench: setup-%:
	@PYTHON='$(PYTHON)' tools/setup.sh $*

# What the rigs run beside what the tests need: atheris, bandit; and semgrep and sslyze, each in an
# environment of its own.
setup-proof: setup-test
	@tools/make_venv.sh .venv .venv/bin/python proof
	@tools/proof_tools.sh .venv/bin/python

demo: setup-demo
	@exec .venv/bin/fleetnet demo $(if $(SECONDS),--seconds $(SECONDS))

test: setup-test
	@$(CHECKS) all $(if $(ARGS),-- $(ARGS))

bench: setup-bench
	@exec .venv/bin/python tests/bench $(ARGS)

proof: setup-proof
	@exec .venv/bin/python tests/proof/scoreboard.py $(ARGS)

proof-cluster: setup-test
	@.venv/bin/python tests/proof/cluster.py $(ARGS)
	@.venv/bin/python tests/proof/cluster.py --bad

release: setup-test
	@.venv/bin/python tools/release.py $(ARGS)

lock:
	@tools/lock.sh

docs: setup-test
	@NO_MKDOCS_2_WARNING=1 exec .venv/bin/python -m mkdocs $(if $(SERVE),serve,build --strict)

style types imports unit: setup-test
	@$(CHECKS) $@ $(if $(ARGS),-- $(ARGS))

clean:
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .tools/logs
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-3.* .tools
