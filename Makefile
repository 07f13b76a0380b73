# Everything here needs Go; compat also needs Node and Python.
SHELL := /bin/bash -o pipefail

GO            ?= go
STATICCHECK   ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI_LINT ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

FUZZTIME  ?= 30s
BENCH     ?= .
BENCHTIME ?= 1s
SCALE     ?= 200000
HISTORIES ?= 20000

# The tags of tests that need more than Go; linters look behind them too.
TAGS := browser,compat,crash,fault,nodes,scale

.DEFAULT_GOAL := help

.PHONY: help
help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 10

.PHONY: build
build: ## build bin/posthaste
	$(GO) build -trimpath -o bin/posthaste ./cmd/posthaste

.PHONY: test
test: ## run the tests that need nothing but Go
	$(GO) test ./...

.PHONY: lint
lint: ## check the format and run vet and staticcheck
	@unformatted=$$(find . -name '*.go' -not -path '*/node_modules/*' -print0 | xargs -0 gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...
	$(GO) run $(STATICCHECK) -tags $(TAGS) ./...

.PHONY: lint-full
lint-full: lint ## lint, and golangci-lint, which takes minutes to build the first time
	$(GO) run $(GOLANGCI_LINT) run --build-tags $(TAGS) ./...

.PHONY: microbench
microbench: ## run the Go benchmarks matching BENCH for BENCHTIME each
	$(GO) test -p 1 -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem ./...

.PHONY: bench
bench: ## compare with a relay and with the peers that are installed, in short: two minutes
	cd bench && $(GO) build -o ../bin/bench . && \
	../bin/bench throughput -systems installed -rounds 1 -messages 2000 -warmup 200 && \
	../bin/bench all -short -connections 64

.PHONY: bench-full
bench-full: ## the whole comparison, an hour or two on a quiet machine; reports go to bench/results
	cd bench && $(GO) build -o ../bin/bench . && mkdir -p results && \
	../bin/bench throughput -systems installed -rounds 5 -json results/throughput.json && \
	../bin/bench chart results/throughput.json results/throughput.svg && \
	../bin/bench open -systems installed -json results/open.json && \
	../bin/bench latency -systems installed -json results/latency.json && \
	../bin/bench delayed -rate 5000 -json results/delayed.json && \
	../bin/bench batch -systems relay,posthaste,posthaste-pg -json results/batch.json && \
	../bin/bench backpressure -systems posthaste,posthaste-pg -rounds 1 -json results/backpressure.json && \
	../bin/bench scale -systems posthaste -rounds 1 -json results/scale-delayed.json && \
	../bin/bench scale -systems posthaste -rounds 1 -pending 1000000 -queues 1 -json results/scale-queue.json && \
	../bin/bench scale -systems posthaste -rounds 1 -pending 1000000 -queues 10000 -json results/scale-queues.json

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	@grep -roE --include='*_test.go' --exclude-dir=node_modules --exclude-dir=bench '^func Fuzz[A-Za-z0-9_]*' . \
	| sed -E 's|/[^/]*:func | |' | sort \
	| while read -r dir name; do \
		echo "== $$dir $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; \
	done

.PHONY: sim
sim: ## run HISTORIES random histories of a server in virtual time
	POSTHASTE_HISTORIES=$(HISTORIES) $(GO) test -count=1 -timeout 0 -run TestHistories ./internal/sim

.PHONY: faults
faults: ## plant faults in the server and see that histories find them
	$(GO) test -count=1 -tags fault -run TestFaultsAreFound ./internal/sim

.PHONY: crash
crash: ## kill the server under load and count what it lost
	$(GO) test -count=1 -tags crash ./test/crash/...

# Tests that let days pass, which a node over a database spends with looking for work.
DAYS := TestRetryTimes|TestRetention|TestLogFilters|TestLogPages|TestSchedules|TestHostileRequests|TestIsolation|TestHostedBackoff|TestDailyLimit|TestCancel$$

.PHONY: postgres
postgres: ## run the suites of the API and of the SDKs on PostgreSQL
	POSTHASTE_TEST_STORE=postgres $(GO) test -count=1 -skip '$(DAYS)|^Fuzz' ./internal/httpapi
	POSTHASTE_TEST_STORE=postgres $(GO) test -count=1 -tags compat ./test/compat/...

MESSAGES ?= 20000
PENDING  ?= 5000000

.PHONY: nodes
nodes: ## kill, stop and crash nodes over a database under MESSAGES messages
	$(GO) test -count=1 -tags nodes ./test/nodes/... -messages $(MESSAGES)

.PHONY: backlog
backlog: ## have a million messages wait behind one key, on a machine that does nothing else
	$(GO) test -count=1 -timeout 0 -tags crash -run TestBacklog -v ./test/crash -backlog 1000000 -strict

.PHONY: pending
pending: ## compare the cost of a message over a database with 10,000 and with PENDING others
	$(GO) test -count=1 -timeout 60m -run TestPending -v ./internal/store/postgres -pending $(PENDING)

.PHONY: compat
compat: ## drive a server with the official SDKs
	$(GO) test -count=1 -tags compat ./test/compat/...

.PHONY: scale
scale: ## measure bulk requests and pages with SCALE messages
	$(GO) test -count=1 -timeout 60m -v -tags scale -run '^TestScale$$' ./internal/server -messages $(SCALE)

.PHONY: browser
browser: ## drive the console with a headless browser
	$(GO) test -count=1 -parallel 3 -tags browser ./test/browser/...
