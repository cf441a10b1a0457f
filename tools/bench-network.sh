#!/usr/bin/env bash
# Runs a bench in a network of its own, a loopback interface, if the kernel lets us: bench-network.sh COMMAND...
# What is sent to 127.0.0.2 there is acknowledged at once (bench/internal/gateway/mixed.go says why).
set -euo pipefail
# Debian puts ip where an ordinary user's PATH may not look.
PATH=$PATH:/usr/sbin:/sbin
if ! unshare --net ip link set lo up 2>/dev/null; then
	echo "bench: no network of its own: that takes root" >&2
	exec "$@"
fi
# shellcheck disable=SC2016 # the inner shell expands
exec unshare --net bash -c '
	ip link set lo up
	ip route add local 127.0.0.2 dev lo table local quickack 1
	exec "$@"' bench "$@"
