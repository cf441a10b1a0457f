# The one door to everything: `make help`. CI runs .ci/run, which runs `make ci` and nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The modules of go.work. Those without Go files yet are left out where a tool refuses an empty module.
MODULES := proto pkg $(patsubst %/go.mod,%,$(wildcard services/*/go.mod)) e2e examples bench
FILLED = $(shell for m in $(MODULES); do [ -z "$$(find $$m -name '*.go' -print -quit)" ] || echo $$m; done)
BIN := $(CURDIR)/.bin
export PATH := $(BIN):$(PATH)
export CGO_ENABLED ?= 1
# Runs a command with the PostgreSQL that tools/setup/postgres.sh has put into .tools, if it had to.
WITH_POSTGRES := tools/setup/postgres.sh run

# What can be set: make e2e ROUNDS=10 RUN=TestFaults, make bench QUICK=1 SUITE=spine RUN=list PROFILES=/tmp/p, make fuzz FUZZTIME=5m.
ROUNDS ?= 1
RUN ?= .
QUICK ?=
SUITE ?= spine,senders
PROFILES ?=
FUZZTIME ?= 30s
# make images: TAG=1.2.3 PLATFORM=linux/arm64 REGISTRY=registry.example.com SERVICES="gateway pushcore".
TAG ?= $(shell sed -n 's/^appVersion: "\(.*\)"/\1/p' helm/halley/Chart.yaml)
PLATFORM ?= linux/amd64,linux/arm64
REGISTRY ?=
SERVICES ?=
IMAGES := .build/images

# $(call need,path): says plainly which part of the product a target waits for.
need = @[ -e $(1) ] || { echo "make $@ needs $(1), which this checkout does not have" >&2; exit 1; }

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Run it.

.PHONY: up
up: build ## Start Halley on this machine, with all it needs; data in .halley.
	tools/setup/postgres.sh install
	$(WITH_POSTGRES) $(BIN)/halley up

.PHONY: demo
demo: build ## Start everything in a temporary folder, push to 20 devices and a phone of every maker (simulated), show what became of it.
	tools/setup/postgres.sh install
	$(WITH_POSTGRES) $(BIN)/halley demo

.PHONY: build
build: ## Build the programs of all services into .bin.
	$(call need,services/halley/cmd/halley)
	go build -o $(BIN)/ $(addprefix ./,$(wildcard services/*/cmd/*))

## Tools: pinned in tools/*/go.mod, built once into .bin.

$(BIN)/.gen: tools/gen/go.mod tools/gen/go.sum $(wildcard tools/gen/*/*.go)
$(BIN)/.buf: tools/buf/go.mod tools/buf/go.sum
$(BIN)/.lint: tools/lint/go.mod tools/lint/go.sum
$(BIN)/.nats: tools/nats/go.mod tools/nats/go.sum
$(BIN)/.helm: tools/helm/go.mod tools/helm/go.sum
$(BIN)/.helmdocs: tools/helmdocs/go.mod tools/helmdocs/go.sum
$(BIN)/.kubescore: tools/kubescore/go.mod tools/kubescore/go.sum
$(BIN)/.kustomize: tools/kustomize/go.mod tools/kustomize/go.sum
$(BIN)/.images: tools/images/go.mod tools/images/go.sum $(wildcard tools/images/*/*.go tools/images/*/*/*.go)
$(BIN)/.chart: tools/chart/go.mod tools/chart/go.sum $(wildcard tools/chart/*/*.go)
CHART_TOOLS := $(addprefix $(BIN)/.,helm helmdocs kubescore kustomize chart)

$(BIN)/.%:
	@mkdir -p $(BIN)
	cd tools/$* && GOWORK=off go build -o $(BIN)/ $(if $(shell grep '^tool' tools/$*/go.mod),tool) $(if $(wildcard tools/$*/*/*.go),./...)
	@touch $@

.build/proto-deps: $(BIN)/.gen
	@mkdir -p .build
	protodeps .build/proto-deps
	@touch $@

## Generated code.

.PHONY: gen
gen: $(BIN)/.gen $(BIN)/.buf .build/proto-deps ## Generate code and the OpenAPI document from proto/.
	buf format proto -w
	@rm -rf .build/openapi && mkdir -p .build/openapi
	buf generate
	cd .build/openapi/halley && openapiv3-merge push/v1/push.openapi.json push/v1/device.openapi.json push/v1/activity.openapi.json \
		admin/v1/admin.openapi.json device/v1/device.openapi.json | openapi > $(CURDIR)/proto/openapi/openapi.json

.PHONY: gen-check
gen-check: gen ## Prove that the committed generated code is fresh.
	@changed=$$(git status --porcelain -- proto); [ -z "$$changed" ] || { echo "$$changed"; git --no-pager diff --stat -- proto; \
		echo "proto/ is not what is committed after make gen: commit it" >&2; exit 1; }

## Images.

.PHONY: images
images: $(BIN)/.images ## Make the container images of all services, or of SERVICES, into .build/images; REGISTRY=host pushes them, too.
	images -tag $(TAG) -platform $(PLATFORM) -out $(IMAGES) $(if $(REGISTRY),-registry $(REGISTRY)) $(SERVICES)

.PHONY: images-trial
images-trial: $(BIN)/.images ## Make the images of NATS and PostgreSQL that the chart's trial runs on; needs Debian's postgresql-15.
	images -trial -tag $(TAG) -platform $(PLATFORM) -out $(IMAGES) $(if $(REGISTRY),-registry $(REGISTRY))

.PHONY: images-check
images-check: $(BIN)/.images ## Prove that two builds of the last commit, in two places, one from nothing, make the same images.
	tools/images-check.sh $(TAG) $(PLATFORM) $(SERVICES)

## Checks.

.PHONY: fmt
fmt: $(BIN)/.lint $(BIN)/.buf ## Format Go and proto files.
	gofumpt -l -w $(MODULES) tools
	set -e; for m in $(FILLED); do (cd $$m && golangci-lint fmt --config $(CURDIR)/.golangci.yaml ./...); done
	buf format proto -w

.PHONY: lint
lint: lint-go lint-proto proto-breaking ## Check formats, linters, import directions and that no contract breaks.

.PHONY: lint-go
lint-go: $(BIN)/.lint
	@failed=; bad=$$(gofumpt -l $(MODULES) tools); \
	[ -z "$$bad" ] || { echo "not formatted (make fmt):"; echo "$$bad"; failed=" gofumpt"; }; \
	for m in $(FILLED); do \
		echo "golangci-lint $$m"; (cd $$m && golangci-lint run --allow-serial-runners --config $(CURDIR)/.golangci.yaml ./...) || failed="$$failed $$m"; \
	done; [ -z "$$failed" ] || { echo "findings in:$$failed" >&2; exit 1; }

.PHONY: lint-proto
lint-proto: $(BIN)/.buf $(BIN)/.gen .build/proto-deps
	buf lint
	buf format proto --diff --exit-code
	openapicheck < proto/openapi/openapi.json

.PHONY: proto-breaking
proto-breaking: $(BIN)/.buf .build/proto-deps ## Check that the protos break nothing that main has.
	tools/proto-breaking.sh

.PHONY: helm-lint
helm-lint: build $(CHART_TOOLS) ## Check the Helm chart, its alerts and dashboards, and deploy/k8s, without a cluster.
	cd tools/chart && GOWORK=off go test ./...
	tools/helm-lint.sh

.PHONY: helm-docs
helm-docs: $(CHART_TOOLS) ## Write the chart's README and deploy/k8s from the chart.
	helm-docs --chart-search-root helm
	tools/k8s-base.sh > deploy/k8s/base/halley.yaml

.PHONY: helm-check
helm-check: $(CHART_TOOLS) ## Have an API server check the chart: KUBECONFIG's, or one of k8slab (K8SLAB=folder).
	tools/helm-check.sh

.PHONY: build-modules
build-modules: ## Build and vet each module on its own, without go.work; the gateway and the SDK elsewhere than on Linux, too.
	@for m in $(FILLED); do echo "GOWORK=off $$m"; (cd $$m && GOWORK=off go build ./... && GOWORK=off go vet ./...); done
	CGO_ENABLED=0 GOOS=darwin go build ./services/gateway/... ./pkg/device/...

## Tests.

.PHONY: test
test: ## Run every test but e2e, with the race detector; needs PostgreSQL's programs.
	$(WITH_POSTGRES) go test -race -timeout 10m $(patsubst %,./%/...,$(filter-out e2e,$(FILLED)))

.PHONY: test-short
test-short: ## Run the tests that need no database, in a minute.
	go test -short -timeout 1m $(patsubst %,./%/...,$(filter-out e2e,$(FILLED)))

.PHONY: e2e
e2e: build $(BIN)/.nats ## Test the whole product through its public doors; ROUNDS=10 RUN=<regexp>.
	$(call need,e2e/clients)
	tools/setup/postgres.sh install
	tools/setup/e2e.sh
	HALLEY_E2E_BIN=$(BIN) HALLEY_E2E_ROUNDS=$(ROUNDS) \
		$(WITH_POSTGRES) go test -count=1 -v -timeout 60m -parallel 4 -run '$(RUN)' ./e2e/...  # they wait more than they work

.PHONY: e2e-storms
e2e-storms: ## Test the storms at full size: 19,000 phones, 15,200 of them at the gateway that is killed.
	HALLEY_E2E_PHONES=19000 $(MAKE) e2e RUN=TestStorms

.PHONY: e2e-k8s
e2e-k8s: $(BIN)/.images ## Test the chart on a cluster under upgrades, scaling and kills: KUBECONFIG's, or one of k8slab (K8SLAB=folder).
	go test -c -tags k8s -o $(BIN)/e2e-k8s.test ./e2e/k8s
	tools/e2e-k8s.sh

.PHONY: bench
bench: build $(BIN)/.nats ## Measure the whole path, beside what others do; figures in bench/out. QUICK=1 is short.
	$(call need,bench/cmd/bench)
	$(call measure,$(SUITE))

.PHONY: bench-gateway
bench-gateway: build $(BIN)/.nats ## Measure the gateway at its limits, beside a bare loop and its peers. QUICK=1 is short.
	$(call need,bench/cmd/bench)
	go test -c -o $(BIN)/gateway-tables.test ./services/gateway/internal/loop
	$(call measure,gateway)

.PHONY: bench-senders
bench-senders: build $(BIN)/.nats ## Measure the senders of APNs, FCM and Huawei beside a bare client loop. QUICK=1 is short.
	$(call need,bench/cmd/bench)
	$(call measure,senders)

# $(call measure,suite): runs a suite of the bench. It is built first, so that no compiler runs beside it.
define measure
	tools/setup/postgres.sh install
	tools/setup/e2e.sh
	@mkdir -p bench/out
	go build -o $(BIN)/bench ./bench/cmd/bench
	HALLEY_BENCH_BIN=$(BIN) $(WITH_POSTGRES) tools/bench-network.sh $(BIN)/bench -out bench/out -suite $(1) $(if $(QUICK),-quick) $(if $(PROFILES),-profiles $(PROFILES)) -run '$(RUN)'
endef

.PHONY: fuzz
fuzz: ## Run every fuzz test in turn, each for FUZZTIME.
	$(WITH_POSTGRES) tools/fuzz.sh $(FUZZTIME) $(FILLED)

## All of it.

.PHONY: ci
ci: ## Everything that must pass before a change is merged, with the time of each step.
	@.ci/steps gen-check lint build-modules helm-lint test "e2e ROUNDS=1" demo "bench QUICK=1"

.PHONY: clean
clean: ## Remove what was built and fetched; .halley, the data of make up, stays.
	rm -rf .bin .build .tools bench/out e2e/clients/node_modules
