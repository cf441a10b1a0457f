#!/usr/bin/env bash
# Runs e2e/k8s, the test of the chart on a cluster.
# With KUBECONFIG: on that cluster, whose first node this has to be (it kills pods' processes), with images from HALLEY_E2E_REGISTRY of the
# tags HALLEY_E2E_TAG and HALLEY_E2E_NEXT_TAG. The namespace halley is made, and stays.
# Without: makes the images and runs on a cluster of k8slab (its folder: K8SLAB), which is taken down at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
K8SLAB=${K8SLAB:-../shared/tools/k8slab}
services="pushcore gateway halley sender-apns"
images=.build/e2e-k8s
export HALLEY_E2E_CHART=$PWD/helm/halley HALLEY_E2E_VALUES=$PWD/e2e/k8s/values.yaml

volume() { # name size claim: a PersistentVolume on this node for a claim that is to come
	cat <<-YAML
		---
		apiVersion: v1
		kind: PersistentVolume
		metadata: {name: $1}
		spec:
		  accessModes: [ReadWriteOnce]
		  capacity: {storage: $2}
		  persistentVolumeReclaimPolicy: Retain
		  hostPath: {path: $volumes/$1, type: Directory}
		  claimRef: {namespace: halley, name: $3}
	YAML
}

namespace() {
	kubectl create namespace halley
	kubectl label namespace halley pod-security.kubernetes.io/{enforce,warn}=restricted > /dev/null
}

# overcommitted makes a copy of k8slab where it needs one: the kubelet wants a kernel that overcommits memory, and k8slab shows it two
# such settings as it wants them, but not this one.
overcommitted() {
	if [ "$(< /proc/sys/vm/overcommit_memory)" = 1 ] || grep -q overcommit_memory "$K8SLAB/lab.sh"; then return; fi
	install -D -t .build/k8slab "$K8SLAB"/{lab.sh,addons.yaml}
	sed -i 's|^  mount --bind $RUN/fake/panic /proc.*|&\n  echo 1 > $RUN/fake/overcommit; mount --bind $RUN/fake/overcommit /proc/sys/vm/overcommit_memory|' \
		.build/k8slab/lab.sh
	K8SLAB=$PWD/.build/k8slab
}

if [ "${1:-}" = inside ]; then # in k8slab, with its KUBECONFIG
	volumes=$2
	namespace
	kubectl apply -f "$K8SLAB/addons.yaml" > /dev/null
	kubectl -n kube-system rollout status deployment/coredns --timeout=60s
	install -d -m 755 "$volumes"
	install -d -o 65532 -g 65532 -m 700 "$volumes/nats"
	install -d -o 999 -g 999 -m 700 "$volumes/postgresql"
	{ volume nats 2Gi data-halley-nats-0; volume postgresql 8Gi data-halley-postgresql-0; } | kubectl apply -f -
	for archive in "$images"/*/*.tar; do
		ctr -n k8s.io images import "$archive" > "$images/import.log" 2>&1 || { cat "$images/import.log" >&2; exit 1; }
	done
elif [ -z "${KUBECONFIG:-}" ]; then
	[ -x "$K8SLAB/lab.sh" ] || { echo "make e2e-k8s needs KUBECONFIG, or k8slab in K8SLAB" >&2; exit 1; }
	overcommitted
	export HALLEY_E2E_TAG=e2e-1 HALLEY_E2E_NEXT_TAG=e2e-2
	for tag in $HALLEY_E2E_TAG $HALLEY_E2E_NEXT_TAG; do
		# shellcheck disable=SC2086 # a list
		images -tag $tag -platform linux/amd64 -out $images/$tag $services
	done
	images -tag $HALLEY_E2E_TAG -platform linux/amd64 -out $images/$HALLEY_E2E_TAG -trial
	trap '"$K8SLAB/lab.sh" down' EXIT
	"$K8SLAB/lab.sh" up
	"$K8SLAB/lab.sh" in env K8SLAB="$K8SLAB" tools/e2e-k8s.sh inside "${RUN_DIR:-/tmp/k8slab}/volumes"
	"$K8SLAB/lab.sh" in .bin/e2e-k8s.test -test.v -test.timeout 60m
else
	namespace
	.bin/e2e-k8s.test -test.v -test.timeout 60m
fi
