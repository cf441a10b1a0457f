#!/usr/bin/env bash
# Has an API server check the chart, rendered with each of its three sets of values, strictly and without making anything:
# kubectl apply --dry-run=server --validate=strict. A warning (Pod Security, deprecation) is a failure.
# With KUBECONFIG on that cluster: namespace $NAMESPACE (default), resources of kinds that it does not know are left out and named.
# Without: on a control plane of k8slab ($K8SLAB, its folder), with the CRDs of cert-manager, the Prometheus
# operator and CloudNativePG.
set -euo pipefail
cd "$(dirname "$0")/.."
K8SLAB=${K8SLAB:-../shared/tools/k8slab}

# crds module@version folder: prints where a Go module has its CRDs.
crds() {
	local dir
	dir=$(cd tools/chart && GOWORK=off GOFLAGS=-mod=mod go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	echo "$dir/$2"
}

# known rendered: the resources whose kinds the cluster knows; the others are named on standard error.
known() {
	kubectl api-resources --no-headers | awk '{print $(NF-2) "/" $NF}' | sort -u > "$out/kinds"
	awk -v kinds="$out/kinds" '
		BEGIN { while ((getline line < kinds) > 0) known[line] = 1 }
		function flush() {
			if (text == "" || kind == "") { text = ""; return }
			if (known[version "/" kind]) printf "---\n%s", text
			else print "left out, the cluster has no " version " " kind > "/dev/stderr"
			text = kind = version = ""
		}
		/^---/ { flush(); next }
		/^apiVersion:/ { version = $2 }
		/^kind:/ { kind = $2 }
		{ text = text $0 "\n" }
		END { flush() }' "$1"
}

check() { # name, values…
	local name=$1 flags=()
	shift
	for values in "$@"; do flags+=(-f "helm/halley/$values"); done
	helm template halley helm/halley -n "$namespace" "${flags[@]}" > "$out/$name.yaml"
	known "$out/$name.yaml" > "$out/$name.known.yaml"
	kubectl apply --dry-run=server --validate=strict --warnings-as-errors -n "$namespace" -f "$out/$name.known.yaml" > "$out/$name.log" 2>&1 ||
		{ grep -v ' (server dry run)$' "$out/$name.log" >&2; return 1; }
	echo "$name: $(grep -c ' (server dry run)$' "$out/$name.log") resources accepted"
}

# secrets: what the release's Secrets hold, a line each.
secrets() {
	kubectl -n $namespace get secrets -l app.kubernetes.io/instance=halley \
		-o go-template='{{range .items}}{{$n := .metadata.name}}{{range $k, $v := .data}}{{$n}}/{{$k}} {{$v}}{{"\n"}}{{end}}{{end}}'
}

# same before after pattern: fails if a line that fits the pattern is in one of the two and not in the other.
same() {
	diff <(grep -E "$3" <<< "$1") <(grep -E "$3" <<< "$2") > /dev/null || { echo "$4: Secrets changed that must stay" >&2; return 1; }
}

# kept installs the trial, without a node to run it on, and sees that what is made once stays over upgrades and uninstalls, and that
# certificates are made anew in time.
kept() {
	local chart=(halley helm/halley -n $namespace --no-hooks -f helm/halley/values-trial.yaml) first upgraded renewed again
	helm install "${chart[@]}" > /dev/null
	first=$(secrets)
	[ "$(grep -c keys.json <<< "$first")" = 1 ] || { echo "no keys.json" >&2; return 1; }
	helm upgrade "${chart[@]}" > /dev/null
	upgraded=$(secrets)
	same "$first" "$upgraded" . "upgrade"
	helm upgrade "${chart[@]}" --set internalTLS.days=700 --set internalTLS.renewDays=731 > /dev/null
	renewed=$(secrets)
	same "$first" "$renewed" '^halley-(secrets|nats|postgresql|ca)/|/ca\.crt ' "renewal"
	! same "$first" "$renewed" '^halley-gateway-tls/tls\.crt ' "renewal" 2> /dev/null || { echo "the certificate was not renewed" >&2; return 1; }
	helm uninstall halley -n $namespace > /dev/null
	helm install "${chart[@]}" > /dev/null
	again=$(secrets)
	same "$first" "$again" '^halley-(secrets|postgresql|ca)/' "another install"
	helm uninstall halley -n $namespace > /dev/null
	echo "Secrets are kept over upgrades, renewals and another install"
}

all() {
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	kubectl version | grep Server
	check trial values-trial.yaml
	check production values-production.yaml
	check 10m values-production.yaml values-10m.yaml
}

if [ "${1:-}" = inside ]; then # in k8slab, with its KUBECONFIG
	namespace=halley
	kubectl create namespace $namespace > /dev/null
	kubectl label namespace $namespace pod-security.kubernetes.io/{enforce,warn}=restricted > /dev/null
	kubectl wait -n $namespace --for=create --timeout=60s serviceaccount/default > /dev/null
	kubectl create --save-config=false -f "$2" -f "$3" -f "$4" > /dev/null
	kubectl wait --for=condition=Established --timeout=60s crd --all > /dev/null
	all
	kept
	kubectl apply --dry-run=server --validate=strict --warnings-as-errors -f deploy/k8s/postgresql.yaml -n $namespace
elif [ -n "${KUBECONFIG:-}" ]; then
	namespace=${NAMESPACE:-default}
	all
else
	[ -x "$K8SLAB/lab.sh" ] || { echo "make helm-check needs KUBECONFIG, or k8slab in K8SLAB" >&2; exit 1; }
	manager=$(crds github.com/cert-manager/cert-manager@v1.21.2 deploy/crds)
	operator=$(crds github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd)
	postgresql=$(crds github.com/cloudnative-pg/cloudnative-pg@v1.27.0 config/crd/bases/postgresql.cnpg.io_clusters.yaml)
	NODE=0 "$K8SLAB/lab.sh" up
	trap '"$K8SLAB/lab.sh" down' EXIT
	"$K8SLAB/lab.sh" in "$PWD/tools/helm-check.sh" inside "$manager" "$operator" "$postgresql"
fi
