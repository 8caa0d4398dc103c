# podtrace: make help lists the targets.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/podtrace/podtrace/pkg/cmd.version=$(VERSION)
LINT := $(GO) tool -modfile=tools/go.mod golangci-lint
FUZZTIME ?= 30s
BENCH ?= .
CHAOS ?= 5
HEALTHY_RUNS ?= 1000
SOAK ?= 10m
IMAGE ?= ghcr.io/podtrace/podtrace:$(VERSION)
IMAGE_PLATFORMS ?= linux/amd64 linux/arm64
export GOFLAGS += -buildvcs=false

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/podtrace (static) and bin/kubectl-podtrace
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/podtrace ./cmd/podtrace
	ln -sf podtrace bin/kubectl-podtrace
	ln -sf podtrace bin/kubectl_complete-podtrace

.PHONY: image
image: ## the agents' image as an OCI archive, dist/podtrace-image.tar, without a container engine
	@for p in $(IMAGE_PLATFORMS); do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$p/podtrace ./cmd/podtrace || exit 1; \
	done
	$(GO) run -C hack/image . -name '$(IMAGE)' -o '$(CURDIR)/dist/podtrace-image.tar' $(foreach p,$(IMAGE_PLATFORMS),$(p)=$(CURDIR)/dist/$(p)/podtrace)
	@echo "dist/podtrace-image.tar: $(IMAGE)"

.PHONY: dist
dist: ## archives for every system, their sums, and the krew manifest, in dist/
	@for os in linux darwin windows; do for arch in amd64 arm64; do \
		echo "build $$os/$$arch"; ext=; [ $$os != windows ] || ext=.exe; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$os/$$arch/podtrace$$ext ./cmd/podtrace || exit 1; \
	done; done
	$(GO) run ./hack/krew -version '$(VERSION)' -dist dist

.PHONY: modules
modules: ## vet and test the modules under hack/ that have a go.mod of their own
	@for m in hack/*/go.mod; do d=$$(dirname $$m); echo "test $$d"; $(GO) vet -C $$d ./... && $(GO) test -C $$d ./... || exit 1; done

.PHONY: demo
demo: build ## bring the lab up, trace, break, diagnose, mend, take it down
	@hack/demo bin/podtrace

.PHONY: test
test: tools vet lint race libpcap modules side-by-side cross ## everything that CI runs

.PHONY: tools
tools: ## see to it that the tools that tests compare with are there (as root: by apt-get)
	@hack/tools

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: lint
lint: ## golangci-lint, pinned in tools/go.mod
	$(LINT) run ./...
	cd test/e2e && $(GO) tool -modfile=../../tools/go.mod golangci-lint run -c ../../.golangci.yml ./...

.PHONY: race
race: ## all tests but those of faults, with the race detector where there is a C compiler for it
	@if command -v gcc >/dev/null; then set -x; CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...; \
	else echo "no gcc: without the race detector"; $(GO) test -timeout 20m ./...; fi

.PHONY: libpcap
libpcap: ## the second capture engine and filter expressions, against libpcap
	CGO_ENABLED=1 $(GO) vet -tags libpcap ./pkg/capture ./cmd/podtrace
	CGO_ENABLED=1 $(GO) test -tags libpcap ./pkg/capture

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@hack/fuzz $(FUZZTIME)

.PHONY: side-by-side
side-by-side: ## faults and fuzz at once: the first waits most of the time
	@$(MAKE) --no-print-directory -j2 --output-sync=target faults fuzz FAULTS=$(FAULTS)

.PHONY: bench
bench: ## benchmarks that match BENCH (all)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

FAULTS ?= all
# where CI has half an hour, the other labs' faults are put on one node each
test: FAULTS = default

.PHONY: faults
faults: ## every fault of every lab, on every node that shows it: the tables of verdicts
	@set -o pipefail; FAULTS=$(FAULTS) $(GO) test ./pkg/trace -run 'TestFaultMatrix|TestFaultsOfDatapaths|TestConntrackTableFull|TestByHand|TestFDBAged' -v -timeout 60m | grep -v -e '=== RUN' -e '--- PASS'

.PHONY: healthy
healthy: ## HEALTHY_RUNS (1000) healthy paths over all datapaths, half of them under load: no finding
	HEALTHY_RUNS=$(HEALTHY_RUNS) $(GO) test ./pkg/trace -run TestHealthyRuns -v -timeout 60m

.PHONY: soak
soak: ## a recorder for SOAK (10m) while the lab breaks and heals: no growth in memory, descriptors, goroutines
	SOAK=$(SOAK) $(GO) test ./pkg/trace -run TestSoak -v -count=1 -timeout 90m

.PHONY: realcni
realcni: ## pods of real flanneld and CNI plugins, healthy and broken, and the lab held against them (as root)
	@set -o pipefail; hack/realcni -v | grep -v -e '=== RUN' -e '=== NAME'

.PHONY: bench-offline
bench-offline: build ## flows of large capture files: speed and memory against tcpdump's, answers against the truth
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/gencap ./hack/gencap
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/benchoffline ./hack/benchoffline
	bin/benchoffline -gencap bin/gencap

.PHONY: bench-live
bench-live: build ## capture on the lab under load: drops, CPU, throughput, times, memory, against tcpdump's
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/benchlive ./hack/benchlive
	bin/benchlive -podtrace bin/podtrace

.PHONY: chaos
chaos: ## the model against the kernel with new random cases (CHAOS times)
	$(GO) test ./pkg/forward -run AgainstKernel -v -seed=0 -pathseed=0 -count=$(CHAOS) -timeout 60m
	NETFILTER_SEED=0 CHAOS=$(CHAOS) $(GO) test ./pkg/netfilter -run TestAgainstKernel -v -count=1 -timeout 60m

.PHONY: cover
cover: ## test coverage, as cover.out and a summary
	$(GO) test -coverprofile=cover.out ./...
	$(GO) tool cover -func=cover.out | tail -1

.PHONY: cross
cross: ## cross-build for each system and each processor once: dist builds every pair
	@for pair in linux/arm64 darwin/arm64 windows/amd64; do \
		echo "build $$pair"; \
		CGO_ENABLED=0 GOOS=$${pair%/*} GOARCH=$${pair#*/} $(GO) build -o /dev/null ./cmd/podtrace || exit 1; \
	done

.PHONY: golden
golden: ## rewrite the golden files from what the code prints
	$(GO) test ./pkg/report -run Golden -update

.PHONY: e2e
e2e: build ## the suite on a real cluster: etcd, Kubernetes, containerd and flannel on this machine (root, minutes the first time)
	@hack/e2e-programs
	@cd test/e2e && trap 'bin/e2e down' EXIT && bin/e2e down && $(GO) test ./cluster && $(GO) test -count=1 -v -timeout 20m .

.PHONY: e2e-up
e2e-up: build ## bring that cluster up to stay, for use by hand: test/e2e/bin/e2e run kubectl get pods
	@hack/e2e-programs
	@cd test/e2e && bin/e2e up

.PHONY: e2e-down
e2e-down: ## take it down, or what is left of one
	@test/e2e/bin/e2e down

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf bin dist cover.out test/e2e/bin
