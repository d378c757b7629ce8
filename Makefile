# What a person does with a checkout; `make` alone lists it. Needs Python 3.11 or newer, and make.

VENV := .venv
PYTHON ?=
ACCELERATOR ?=
WORKERS ?= 2
RUN ?= runs/demo
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS)
SEQZOO = $(VENV)/bin/seqzoo

.DEFAULT_GOAL := help
.PHONY: help install install-parity demo test test-all test-slow test-tpu lint format lock clean

help:  ## list what there is
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -e 's/:.*## /|/' | \
	  awk -F'|' '{ printf "  make %-15s %s\n", $$1, $$2 }'
	@echo '  PYTHON=python3.12 and ACCELERATOR=cpu|cuda|tpu choose for `make install`, WORKERS=2 for tests.'

install:  ## everything into .venv, for the accelerator that the machine has
	@PYTHON='$(PYTHON)' ACCELERATOR='$(ACCELERATOR)' VENV='$(VENV)' sh requirements/install.sh

install-parity: install  ## PyTorch and transformers too, which some tests compare with
	@$(VENV)/bin/python requirements/parity.py

demo: install  ## train English numbers to German ones, then score, translate and draw (2 minutes)
	$(SEQZOO) train transformer_tiny_numerals --run $(RUN)
	$(SEQZOO) evaluate $(RUN)
	@printf '%s\n' 'seven' 'forty-two' 'three hundred and forty-two' \
	  'nine hundred and ninety-nine thousand, nine hundred and ninety-nine' > $(RUN)/examples.en
	$(SEQZOO) predict $(RUN) --input $(RUN)/examples.en --output $(RUN)/examples.de
	@paste -d '>' $(RUN)/examples.en $(RUN)/examples.de | sed 's/>/  ->  /'
	$(SEQZOO) plot $(RUN)

test: install  ## the tests, without the slow ones (under 10 minutes on 2 cores)
	$(PYTEST) -m 'not slow and not tpu' $(TESTS)

test-slow: install  ## only the slow ones
	$(PYTEST) -m 'slow and not tpu' $(TESTS)

test-tpu: install  ## compile every model family for a TPU slice, which needs no TPU
	@$(VENV)/bin/python requirements/tpu_compiler.py $(VENV)/libtpu
	SEQZOO_REQUIRE_TPU_COMPILER=1 PYTHONPATH=$(CURDIR)/$(VENV)/libtpu \
	  $(PYTEST) -m tpu tests/tpu $(TESTS)

test-all: install  ## all of them
	$(PYTEST) $(TESTS)

lint: install  ## style and types, changing nothing
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright

format: install  ## bring the style in order
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

lock: install  ## choose the newest versions anew (needs uv)
	@$(VENV)/bin/python requirements/lock.py

clean:  ## remove .venv, caches and build products; runs/ stays
	rm -rf $(VENV) .jax_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
