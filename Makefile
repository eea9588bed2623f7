# tarn. `make` lists the targets; `make demo` and `make test` set up what they need.

SHELL := /bin/bash
GO ?= go
PKGS := ./...
FUZZTIME ?= 3s
export CGO_ENABLED ?= 1
# SHORT=1 does without the storage servers: it neither installs them nor runs the tests that start one.
export SHORT
# Every build and test is with libXrdCl (root:// and roots://) where its headers are; TAGS= is without. It is looked for at
# each step: setup may just have installed it.
TAGS = $(if $(filter-out 0,$(CGO_ENABLED)),$(shell test -e /usr/include/xrootd/XrdCl/XrdClFile.hh && command -v g++ >/dev/null && echo xrdcl))
export GOFLAGS += $(addprefix -tags=,$(TAGS))

.PHONY: help setup setup-demo build test test-long unit race integration fuzz lint checks bench bench-quick bench-scale bench-peers bench-rucio soak kills uc1 uc1-kills restart pjdfstest demo ci clean

help:
	@echo "targets:"
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 16

setup: ## install what tests and demo need (apt-get where root, else a message); SHORT=1: without servers
	@scripts/setup.sh

setup-demo:
	@SHORT=1 scripts/setup.sh

build: ## bin/tarn, with root:// where libxrootd-client-dev is installed
	@mkdir -p bin
	$(GO) build -trimpath -o bin/tarn ./cmd/tarn

demo: setup-demo build ## the main job, step by step: DATA=DIR your own files, KEEP=1 leaves the mount
	@DATA="$(DATA)" KEEP="$(KEEP)" scripts/demo.sh

test: setup lint race fuzz ## everything that must pass: lint, tests with -race, short fuzzing; SHORT=1: without servers

test-long: ## the same, longer: MinIO (its build takes minutes) and Rucio 41 too, 60 kills a test, 30 s a fuzz target
	@LONG=1 scripts/setup.sh
	LONG=1 TARN_CRASH_ROUNDS=60 $(GO) test -race -timeout 90m $(PKGS)
	@GO="$(GO)" FUZZTIME=30s scripts/fuzz.sh

# The tests that mount take longest, most of it waiting: they begin first.
race: setup ## all tests with the race detector, mounts included
	$(GO) test -race -timeout 35m ./integration $(PKGS)

unit: ## all tests but those that mount, without the race detector
	$(GO) test -short $$($(GO) list ./... | grep -v /integration)

integration: setup ## the tests that mount
	$(GO) test -race -timeout 35m ./integration/...

fuzz: ## each fuzz target for FUZZTIME (3s)
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" scripts/fuzz.sh

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l backends cache cmd fs integration)" || { echo "not gofmt'd:"; gofmt -l backends cache cmd fs integration; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) tool staticcheck $(PKGS)

BENCHCMD = $(GO) run ./integration/bench -tarn bin/tarn

bench: setup build ## a mount against the bare folder, interleaved; writes docs/performance.md (BENCH="-only find -rounds 3")
	$(BENCHCMD) -o docs/performance.md $(BENCH)

bench-quick: setup build ## the same on small sizes, nothing written
	$(BENCHCMD) -rounds 2 -mib 128 -files 5000 -small 500 -huge 20000 -streams 200 -recalls 200 -haul-mib 32 -haul-files 4 -haul-small 500 -haul-grown 5000 $(BENCH)

bench-scale: build ## the catalogue at 10^5 and 10^6 entries (BENCH="-scale 1e7"); writes docs/performance.md
	$(BENCHCMD) -what scale -o docs/performance.md $(BENCH)

bench-rucio: setup build ## tarn beside Rucio's own client on a real Rucio server (BENCH="-rucio-files 3000"); writes docs/performance.md
	$(BENCHCMD) -what rucio -o docs/performance.md $(BENCH)

bench-peers: setup build ## tarn beside rclone, xrootdfs, davfs2, s3fs, JuiceFS, as far as they are here; writes docs/performance.md
	$(BENCHCMD) -what peers -o docs/performance.md $(BENCH)

soak: setup build ## random work, kills and faults against a model: HOURS=n, or MINUTES=n (10)
	$(GO) build -o bin/soak ./integration/soak
	bin/soak -tarn bin/tarn -hours $(or $(HOURS),0) -minutes $(or $(MINUTES),$(if $(HOURS),0,10)) $(SOAK)

kills: setup build ## kill -9 at KILLS (200) random moments and at the nth of each system call, under load
	@cd integration && CI=true TARN_BIN=$(CURDIR)/bin/tarn TARN_CRASH_ROUNDS=$(or $(KILLS),200) $(GO) test -count=1 -v -timeout 120m -run '^(TestCrash|TestKillAtSteps)$$' . \
		| grep -E '^(---|FAIL|ok|panic)|_test.go:'; exit $${PIPESTATUS[0]}

uc1: setup build ## the long haul's six tests on real servers, within 30 minutes; writes uc1-report.html (TEST=1,4 FILES=n SIZE=bytes; FULL=1: sizes as they were; DIR=: on which disk)
	@cd integration && CI=true TARN_BIN=$(CURDIR)/bin/tarn TARN_UC1=$(or $(TEST),all) TARN_UC1_FULL=$(FULL) TARN_UC1_FILES=$(FILES) TARN_UC1_SIZE=$(SIZE) TARN_UC1_DIR=$(DIR) TARN_UC1_REPORT=$(CURDIR)/uc1-report.html \
		$(GO) test -count=1 -v -timeout 6h -run '^TestUC1$$' .

uc1-kills: setup build ## kill -9 at KILLS (200) random moments of an ingest, proved by a manifest made outside
	@cd integration && CI=true TARN_BIN=$(CURDIR)/bin/tarn TARN_CRASH_ROUNDS=$(or $(KILLS),200) $(GO) test -count=1 -v -timeout 120m -run '^TestLongHaulKills$$' . \
		| grep -E '^(---|FAIL|ok|panic)|_test.go:'; exit $${PIPESTATUS[0]}

restart: setup build ## seconds from kill -9 to usable with CACHED (100000) cached and PENDING (10000) unsent files
	@cd integration && CI=true TARN_BIN=$(CURDIR)/bin/tarn TARN_RESTART_CACHED=$(or $(CACHED),100000) TARN_RESTART_PENDING=$(or $(PENDING),10000) \
		$(GO) test -count=1 -v -timeout 30m -run '^TestRestart$$' . | grep -E '^(---|FAIL|ok|panic)|_test.go:'; exit $${PIPESTATUS[0]}

pjdfstest: setup build ## the POSIX suite of that name on a mount (cargo installs it)
	@PATH=$(CURDIR)/bin/cargo/bin:$$PATH; command -v pjdfstest >/dev/null || cargo install --quiet --locked --root $(CURDIR)/bin/cargo pjdfstest --version 0.2.2; \
		cd integration && CI=true TARN_BIN=$(CURDIR)/bin/tarn $(GO) test -count=1 -v -timeout 20m -run '^TestPjdfstest$$' .

ci: test ## what .ci/run runs

clean: ## remove what was built
	rm -rf bin demo
