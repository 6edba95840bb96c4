# The habits of this project as targets; `make help` lists them.

GO           ?= go
STATICCHECK  ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
MAJORS       ?= 13 17 18
BINARIES     := bin/repmgr bin/repmgrd
# Arguments for the demo, the benchmark, the chaos lab and the simulator, as in: make demo ARGS=--keep
ARGS         ?=
# Clusters wait more than they compute: from three packages at a time two processors are busy half of the time.
PACKAGES     ?= 3
PARALLEL     ?= $(shell n=$$(nproc); echo $$((n > 1 ? n / 2 : 1)))
# Arguments for go test, as in: make test TESTARGS='-run TestClone -v'
TESTARGS     ?=

.DEFAULT_GOAL := help
.PHONY: help build test test-majors simulate demo soak bench chaos lint docs clean postgres majors

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Static: no cgo, so that one file runs on any Linux; -trimpath: the same source gives the same file.
build: ## build static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/repmgr ./cmd/repmgrd

postgres:
	@scripts/install-postgres

majors:
	@scripts/install-majors $(MAJORS) >/dev/null

# The labs of all packages use the programs that were just built, instead of linking their own.
test test-majors: export REPMGR_BIN = $(CURDIR)/bin

# Data directories are made and removed by the hundred: in memory where there is room, which takes a third less of a processor.
test test-majors: export TMPDIR = $(shell scripts/test-folder)

# The packages that take longest come first, so that none of them runs alone in the end.
test: postgres build ## every test, on the distribution's PostgreSQL
	$(GO) test -timeout 60m -p $(PACKAGES) -parallel $(PARALLEL) $(TESTARGS) ./internal/lab/... ./internal/daemon ./internal/server ./internal/guard ./...

test-majors: postgres majors build ## the core scenarios (tests named TestCore…) on PostgreSQL 13, 17 and 18
	@for major in $(MAJORS); do \
		echo "PostgreSQL $$major"; \
		REPMGR_PG_MAJOR=$$major $(GO) test -timeout 60m -p $(PACKAGES) -parallel $(PARALLEL) -count=1 -run '^TestCore' $(TESTARGS) ./internal/lab/... ./internal/server/... ./internal/daemon/... ./internal/cli/... || exit 1; \
	done

# A test binary, since raft's random numbers can be made repeatable in a test only; it starts itself once for every core.
simulate: ## let clusters live through bad days in virtual time, on all cores (ARGS='--seeds 10000 --seed 1 --for 4m')
	@$(GO) test -c -o bin/sim.test ./internal/sim
	@cd internal/sim && ../../bin/sim.test -simulate $(ARGS)

# The demo program runs as one process (no `go run` in between), so that an interrupt reaches it and it can tidy up.
demo: postgres build ## a three-node cluster whose primary dies before your eyes (ARGS=--keep keeps it)
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/lab
	@bin/lab demo $(ARGS)

soak: postgres build ## saturate a cluster for an hour and see that nothing fails over (ARGS='--for 10m')
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/lab
	@bin/lab soak $(ARGS)

bench: postgres build ## measure failover, the daemon at rest and cluster show, beside repmgr 5 and Patroni if installed
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/lab
	@bin/lab bench $(ARGS)

# Another system's cluster: scripts/install-postgres --repmgr5 or --patroni, then ARGS='--system repmgr5' or 'patroni'.
chaos: postgres build ## break a real cluster at random, and check what its clients were told (ARGS='--seed 1 --faults 200')
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/lab
	@bin/lab chaos $(ARGS)

lint: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l cmd internal *.go); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	@if command -v staticcheck >/dev/null; then staticcheck ./...; \
	elif $(GO) run $(STATICCHECK) -version >/dev/null 2>&1; then $(GO) run $(STATICCHECK) ./...; \
	else echo "lint: staticcheck cannot be had here (no network?); skipped"; fi

docs: ## rewrite the pages that are generated from the code
	$(GO) test ./internal/conf ./internal/failover -update
	$(GO) test ./internal/cli -run TestManPages -update

clean: ## remove what was built (the unpacked servers in .pg stay: rm -rf .pg)
	rm -rf bin
