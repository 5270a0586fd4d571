# make demo    install if needed, then run the six scripts on the offline example
# make test    install if needed, then run all tests
# make fuzz    read 2,000 damaged files of every kind
# make crashes stop every stage wherever it changes files, and run it again
# make lint    check the code's style
# make bench   install the peers if needed, then measure side by side with them
# make evidence measure every alignment in drawn worlds, with strong and weak encoders; writes docs/evidence.md
# make clean   remove the virtual environment and what the demo wrote

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test fuzz crashes lint bench evidence clean

demo: $(VENV)/.installed
	$(RUN) examples/demo.py

test: $(VENV)/.installed-dev
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

fuzz: $(VENV)/.installed-dev
	$(RUN) tests/fuzz.py --cases 2000

crashes: $(VENV)/.installed-dev
	$(RUN) tests/crashes.py

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .

bench: $(VENV)/.installed-bench
	$(RUN) benchmarks/alignment.py
	@echo
	$(RUN) benchmarks/encoding.py
	@echo
	$(RUN) benchmarks/decoding.py

evidence: $(VENV)/.installed
	$(RUN) benchmarks/accuracy.py

clean:
	rm -rf $(VENV) demo

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	|| { echo "$(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt constraints.txt | $(RUN)
	@echo "Installing into $(VENV); PyTorch is large, the first time takes minutes"
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-bench: requirements-bench.txt $(VENV)/.installed
	$(PIP) -r requirements-bench.txt
	@touch $@
