#!/usr/bin/env bash
# Checks the chart without a cluster: lint, the three sets of values rendered and scored, the services' own check of the configuration
# that is rendered for them, alerts against the code, the documents that are made of it.
set -euo pipefail
cd "$(dirname "$0")/.."
chart=helm/halley
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# What kube-score says and we do otherwise, everywhere:
ignored=(
	# Tags are never moved; Always makes a restart hang on the registry.
	--ignore-test container-image-pull-policy
	# A limit of CPU throttles in the middle of a broadcast, when there is CPU to be had; requests share it fairly.
	--ignore-container-cpu-limit
)
# And in a trial, which has one pod of each and no load balancer:
trial=(--ignore-test deployment-replicas --ignore-test service-type)

render() { # name, values…
	local name=$1 flags=()
	shift
	for values in "$@"; do flags+=(-f "$chart/$values"); done
	helm lint --strict --quiet "$chart" "${flags[@]}"
	helm template halley "$chart" -n halley "${flags[@]}" > "$out/$name.yaml"
}

score() { # name, flags…
	local name=$1
	shift
	kube-score score --kubernetes-version v1.30 --output-format ci "${ignored[@]}" "$@" "$out/$name.yaml" > "$out/$name.score" ||
		{ grep -E '^\[(CRITICAL|WARNING)' "$out/$name.score" >&2; return 1; }
	! grep -E '^\[WARNING' "$out/$name.score" >&2
}

render trial values-trial.yaml
render production values-production.yaml
render 10m values-production.yaml values-10m.yaml
score trial "${trial[@]}"
score production
score 10m
echo "three sets of values rendered and scored"

tools/chart-config.sh "$out"/{trial,production,10m}.yaml
chartcheck -chart $chart -runbooks docs/runbooks -same $chart/files/nats.conf=pkg/natsbus/natsserver/nats.conf services pkg

# refused what word flags…: the chart refuses these values, and says why.
refused() {
	local what=$1 word=$2
	shift 2
	if helm template halley $chart "$@" > /dev/null 2> "$out/refusal"; then
		echo "the chart takes $what" >&2
		return 1
	fi
	grep -qF "$word" "$out/refusal" || { echo "$what: the refusal does not say $word:" >&2; cat "$out/refusal" >&2; return 1; }
}
refused "a name that it does not know" "replica" --set gateway.replica=3
refused "a type of Service that there is not" "type" --set gateway.service.type=Balancer
refused "no NATS" "nats.url is needed" --set trial.enabled=false --set postgresql.existingSecret=x
refused "a NATS without passwords" "nats.existingSecret is needed" --set nats.url=nats://x:4222
refused "no PostgreSQL" "postgresql.existingSecret is needed" --set trial.enabled=false --set nats.url=nats://x:4222 --set nats.existingSecret=x
refused "TLS without a certificate" "gateway.listeners.mqtts needs" --set gateway.listeners.mqtts=true
refused "cert-manager without an issuer" "needs issuerRef.name" --set gateway.listeners.mqtts=true --set 'gateway.tls.certManager.dnsNames={a.b}'
refused "a Secret that cert-manager writes" "would write into it" -f $chart/values-production.yaml --set gateway.tls.existingSecret=x
refused "an ingress without a host" "ingress.host is needed" --set ingress.enabled=true
refused "certificates of which one is missing" "is needed" -f $chart/values-production.yaml \
	--set internalTLS.mode=existing --set internalTLS.existingSecrets.pushcore=x
echo "wrong values are refused, with the reason"

helm-docs --chart-search-root helm --dry-run > "$out/README.md" 2> "$out/helm-docs.log"
diff -u $chart/README.md "$out/README.md" > "$out/README.diff" || { cat "$out/README.diff"; echo "make helm-docs, and commit $chart/README.md" >&2; exit 1; }
diff -u deploy/k8s/base/halley.yaml <(tools/k8s-base.sh) || { echo "make helm-docs, and commit deploy/k8s" >&2; exit 1; }
for overlay in deploy/k8s/overlays/*; do kustomize build "$overlay" > /dev/null; done
# The users of NATS may do the same in the values for the NATS project's chart as in our file.
grep -oE '(publish|subscribe): \[.*\]' $chart/files/nats.conf | while read -r line; do
	grep -qF "$line" deploy/k8s/nats-values.yaml || { echo "deploy/k8s/nats-values.yaml lacks $line" >&2; exit 1; }
done
echo "README and deploy/k8s are fresh"
