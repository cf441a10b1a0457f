#!/usr/bin/env bash
# Prints deploy/k8s/base/halley.yaml: the chart, rendered for those who use kustomize instead of Helm.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "# Rendered from helm/halley with deploy/k8s/values.yaml by make helm-docs. Do not edit."
helm template halley helm/halley -n halley --no-hooks --skip-tests -f deploy/k8s/values.yaml | grep -v '^# Source: '
