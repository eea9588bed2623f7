# tarn. `make` lists the targets; `make demo` and `make test` set up what they need.

SHELL := /bin/bash
GO ?= go
PKGS := ./...
FUZZTIME ?= 3s
export CGO_ENABLED ?= 1

.PHONY: help setup build test unit race integration fuzz lint checks bench bench-quick demo ci clean

help:
	@echo "targets:"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

setup: ## install what tests and demo need (apt-get where root, else a message)
	@scripts/setup.sh

build: ## bin/tarn
	@mkdir -p bin
	$(GO) build -trimpath -o bin/tarn ./cmd/tarn

demo: setup build ## the main job, step by step: DATA=DIR your own files, KEEP=1 leaves the mount
	@DATA="$(DATA)" KEEP="$(KEEP)" scripts/demo.sh

test: setup lint race fuzz ## everything that must pass: lint, tests with -race, short fuzzing

race: setup ## all tests with the race detector, mounts included
	$(GO) test -race -timeout 20m $(PKGS)

unit: ## all tests but those that mount, without the race detector
	$(GO) test -short $$($(GO) list ./... | grep -v /integration)

integration: setup ## the tests that mount
	$(GO) test -race -timeout 20m ./integration/...

fuzz: ## each fuzz target for FUZZTIME (3s)
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" scripts/fuzz.sh

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l backends cache cmd fs integration)" || { echo "not gofmt'd:"; gofmt -l backends cache cmd fs integration; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) tool staticcheck $(PKGS)

bench: setup build ## a mount against the bare folder, interleaved; writes docs/performance.md
	$(GO) run ./integration/bench -tarn bin/tarn -o docs/performance.md $(BENCH)

bench-quick: setup build ## the same on small sizes, nothing written
	$(GO) run ./integration/bench -tarn bin/tarn -rounds 3 -mib 128 -files 5000 -small 200 $(BENCH)

ci: test ## what .ci/run runs

clean: ## remove what was built
	rm -rf bin demo
