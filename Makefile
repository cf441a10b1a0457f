# The one door to everything: `make help`. CI runs `make ci` and nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MODULES := proto pkg services/pushcore services/gateway services/halley e2e bench
BIN := $(CURDIR)/.bin
export PATH := $(BIN):$(PATH)
export CGO_ENABLED ?= 1

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Tools: pinned in tools/*/go.mod, built once into .bin.

$(BIN)/.gen: tools/gen/go.mod tools/gen/go.sum $(wildcard tools/gen/*/*.go)
	@mkdir -p $(BIN)
	cd tools/gen && GOWORK=off go build -o $(BIN)/ tool ./protodeps ./openapi
	@touch $@

$(BIN)/.buf: tools/buf/go.mod tools/buf/go.sum
	@mkdir -p $(BIN)
	cd tools/buf && GOWORK=off go build -o $(BIN)/ tool
	@touch $@

$(BIN)/.lint: tools/lint/go.mod tools/lint/go.sum
	@mkdir -p $(BIN)
	cd tools/lint && GOWORK=off go build -o $(BIN)/ tool
	@touch $@

.build/proto-deps: $(BIN)/.gen
	@mkdir -p .build
	protodeps .build/proto-deps
	@touch $@

.PHONY: gen
gen: $(BIN)/.gen $(BIN)/.buf .build/proto-deps ## Generate code and the OpenAPI document from proto/.
	buf format proto -w
	@rm -rf .build/openapi && mkdir -p .build/openapi
	buf generate
	cd .build/openapi/halley && openapiv3-merge push/v1/push.openapi.json push/v1/device.openapi.json \
		admin/v1/admin.openapi.json device/v1/device.openapi.json | openapi > $(CURDIR)/proto/openapi/openapi.json

.PHONY: gen-check
gen-check: gen ## Prove that the committed generated code is fresh.
	@git diff --exit-code -- proto || { echo "generated code is not fresh: run make gen and commit"; exit 1; }
