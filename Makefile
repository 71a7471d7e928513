.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SAMPLE := data/bioscan_sample.hdf5
DEMO := outputs/demo
RUN := $(BIN)/mmlearn_run 'hydra.searchpath=[pkg://projects.bioscan_clip.configs]' +experiment=bioscan_sample

.PHONY: help install demo pictures bench test lint format requirements clean

help: ## Print the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: .venv/installed ## Make .venv with the pinned requirements and this package

.venv/installed: requirements.txt pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11,<3.13' .venv && \
	  uv pip install --quiet --python $(BIN)/python -r requirements.txt && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --editable . ; \
	else \
	  python3 -m venv .venv && \
	  $(BIN)/python -m pip install --quiet -r requirements.txt && \
	  $(BIN)/python -m pip install --quiet --no-deps --editable . ; \
	fi
	@touch $@

demo: $(DEMO)/eval/metrics.json ## Train on sample data, score the best checkpoint, print its accuracy
	@$(BIN)/bioscan-clip results $(DEMO)/eval
	@echo "Sample data        $(SAMPLE)"
	@echo "Best checkpoint    $(DEMO)/train/checkpoints/best.ckpt"
	@echo "Training curves    $(DEMO)/train/logs/metrics.csv"
	@echo "Accuracies         $(DEMO)/eval/metrics.json"
	@echo "Report             $(DEMO)/eval/report.html, a page to open in a browser"

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

pictures: $(DEMO)/eval/metrics.json ## Draw the pictures of README and docs from the demo
	@$(BIN)/python docs/pictures.py

test: .venv/installed ## Run the test suite
	@$(BIN)/python -m pytest

bench: .venv/installed ## Measure loading, scoring, losses and training step against the usual ways
	@for benchmark in tokenizer opening loader disk scoring loss sizing gradient_caching train_step; do \
	  echo; $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

lint: .venv/installed ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/installed ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

requirements: ## Pin requirements.txt anew from pyproject.toml (needs uv)
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --output-file requirements.txt pyproject.toml

clean: ## Delete what the demo made
	rm -rf $(DEMO) $(SAMPLE)
