.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SAMPLE := data/bioscan_sample.hdf5
DEMO := outputs/demo
RUN := $(BIN)/mmlearn_run +experiment=bioscan_sample
PIN := uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links
PIP := $(if $(shell command -v uv),uv pip install --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install) --quiet
VERSION := import sys; version = sys.version_info[:2]; \
  print("%d.%d" % version if (3, 11) <= version <= (3, 12) else "wrong")

.PHONY: help install demo pictures bench recipes test test-cluster lint format requirements clean

help: ## Print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: .venv/installed ## Make .venv with the pinned requirements and this package

# A .venv whose Python is gone, has changed or is of a wrong version is made anew.
ifeq ($(wildcard .venv/lib/python$(shell $(BIN)/python -c '$(VERSION)' 2>/dev/null)),)
.PHONY: .venv/installed
.venv/installed: new-venv
endif

.venv/installed: requirements.txt requirements-dev.txt pyproject.toml
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@$(PIP) --no-deps --editable .
	@touch $@

.PHONY: new-venv
new-venv:
	@for python in python3.12 python3.11 python3; do \
	  if [[ "$$($$python -c '$(VERSION)' 2>/dev/null)" == 3.* ]]; then \
	    rm -rf .venv && $$python -m venv .venv && exit 0; \
	  fi; \
	done; \
	echo "Python 3.11 or 3.12, with venv, is needed; python3.12, python3.11 and python3 are none." >&2; \
	exit 1

demo: $(DEMO)/names.csv ## Train on sample data, score the best checkpoint, name some specimens by it
	@$(BIN)/bioscan-clip results $(DEMO)/eval
	@echo "Sample data        $(SAMPLE)"
	@echo "Best checkpoint    $(DEMO)/train/checkpoints/best.ckpt"
	@echo "Training curves    $(DEMO)/train/logs/metrics.csv"
	@echo "Accuracies         $(DEMO)/eval/metrics.json"
	@echo "Report             $(DEMO)/eval/report.html, a page to open in a browser"
	@echo "Names              $(DEMO)/names.csv, of $(DEMO)/queries by $(DEMO)/library:"
	@cut -d, -f1,3 $(DEMO)/names.csv
	@echo "A page to name more $(BIN)/bioscan-clip serve $(DEMO)/library"

$(SAMPLE): | .venv/installed
	@mkdir -p $(@D)
	@$(BIN)/bioscan-clip data sample --out $@

# The marker is written last: a training that was cut off is not taken for a finished one.
$(DEMO)/train/finished: $(SAMPLE)
	@echo "Training small encoders for 16 epochs, about 7 minutes on 2 cores"
	@$(RUN) experiment_name=demo hydra.run.dir=$(DEMO)/train
	@touch $@

$(DEMO)/eval/metrics.json: $(DEMO)/train/finished
	@echo "Scoring the best checkpoint on the test splits"
	@$(RUN) experiment_name=demo job_type=eval hydra.run.dir=$(DEMO)/eval \
	  resume_from_checkpoint=$(DEMO)/train/checkpoints/best.ckpt > $(DEMO)/eval.log 2>&1 \
	  || { cat $(DEMO)/eval.log; exit 1; }

$(DEMO)/names.csv: $(DEMO)/eval/metrics.json
	@echo "Naming a few photos and barcodes by the other specimens"
	@$(BIN)/python docs/few_specimens.py $(SAMPLE) $(DEMO)/queries
	@$(BIN)/bioscan-clip library build $(DEMO)/library $(SAMPLE)::all_keys --model $(DEMO)/train --force \
	  --calibrate-on $(SAMPLE)::val_seen --calibrate-on $(SAMPLE)::val_unseen > $(DEMO)/library.log 2>&1 \
	  || { cat $(DEMO)/library.log; exit 1; }
	@$(BIN)/bioscan-clip identify $(DEMO)/library $(DEMO)/queries/photos $(DEMO)/queries/barcodes.fasta \
	  --out $@ --precision 0.9 --force > $(DEMO)/names.log 2>&1 || { cat $(DEMO)/names.log; exit 1; }

pictures: $(DEMO)/eval/metrics.json ## Draw the pictures of README and docs from the demo
	@$(BIN)/python docs/pictures.py

test: .venv/installed ## Run the tests, but for those on SLURM
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadscope --no-loadscope-reorder \
	  --ignore tests/cluster

test-cluster: .venv/installed ## Start a SLURM on this machine and run the tests on it
	@$(BIN)/python -m pytest tests/cluster

bench: .venv/installed ## Compare loading, scoring, losses and training steps with the usual ways
	@for benchmark in tokenizer opening loader disk scoring loss sizing gradient_caching train_step checkpoints scaling barcode_augmentation barcodes inference library serve bzsl; do \
	  echo; $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

recipes: .venv/installed ## Compare options of the recipe over three seeds, about an hour on 2 cores; resumes
	@$(BIN)/python benchmarks/recipes.py --out outputs/recipes

lint: .venv/installed ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/installed ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

requirements: ## Pin what users need, and what developers need beyond it, anew (needs uv)
	@$(PIN) --upgrade --extra serve --output-file requirements.txt pyproject.toml
	@$(PIN) --upgrade --extra serve --extra dev --constraint requirements.txt pyproject.toml \
	  | grep -vxFf requirements.txt > requirements-dev.txt

clean: ## Delete the demo's output files
	rm -rf $(DEMO) $(SAMPLE)
