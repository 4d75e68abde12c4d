# fleetnet: `make demo` shows it, `make test` checks it. Both do all their own set-up, in .venv and
# .tools of this checkout; see CONTRIBUTING.md.
#
#   make demo [SECONDS=20]     server, store and real MicroPython devices, live
#   make test [STRICT=1]       every check; STRICT=1: whatever was skipped is a failure
#   make test ARGS="-k resend" arguments for pytest
#   make bench                 the figures of docs/benchmarks.md on this machine
#   make proof                 200 devices on certificates of 20 s, for 6 minutes: nothing is lost;
#                              5,000 devices whose server restarts; one device among many; a day
#                              of 1,000 devices through every command
#   make proof-cluster         three nodes, PostgreSQL, a broker, in network namespaces; as root
#   make style | types | imports | unit    one check of make test alone
#   make clean                 remove what the builds and tests made (distclean: the set-up too)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test bench proof proof-cluster style types imports unit clean distclean setup-demo setup-test setup-bench
unexport SECONDS

STRICT ?=
ARGS ?=
CHECKS = STRICT='$(STRICT)' .venv/bin/python tools/run_checks.py

help:
	@sed -n 's/^#   /  /p' Makefile

setup-demo setup-test setup-bench: setup-%:
	@PYTHON='$(PYTHON)' tools/setup.sh $*

demo: setup-demo
	@exec .venv/bin/fleetnet demo $(if $(SECONDS),--seconds $(SECONDS))

test: setup-test
	@$(CHECKS) all $(if $(ARGS),-- $(ARGS))

bench: setup-bench
	@exec .venv/bin/python tests/bench $(ARGS)

proof: setup-test
	@.venv/bin/python tests/proof/storm.py
	@.venv/bin/python tests/proof/storm_model.py
	@.venv/bin/python tests/proof/day.py
	@.venv/bin/python tests/proof/fairness.py
	@exec .venv/bin/python tests/proof/rotation.py $(ARGS)

proof-cluster: setup-test
	@.venv/bin/python tests/proof/cluster.py $(ARGS)
	@.venv/bin/python tests/proof/cluster.py --bad

style types imports unit: setup-test
	@$(CHECKS) $@ $(if $(ARGS),-- $(ARGS))

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .tools/logs
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-3.* .tools
