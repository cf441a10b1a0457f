#!/usr/bin/env bash
# What the end-to-end tests and the benches need that is not ours: mosquitto with its clients, `ip` for networks that can be
# cut, and the Node packages of e2e/clients. Installs only what is missing, and says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Debian puts the broker and ip where an ordinary user's PATH may not look.
PATH=$PATH:/usr/sbin:/sbin

say() { echo "setup: $*" >&2; }

missing=()
command -v mosquitto >/dev/null || missing+=(mosquitto)
command -v mosquitto_sub >/dev/null && command -v mosquitto_pub >/dev/null || missing+=(mosquitto-clients)
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		say "missing: ${missing[*]}. As root: apt-get install ${missing[*]}"
		exit 1
	fi
	say "installing Debian's ${missing[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

# npm leaves its own copy of the lock file behind when it is done.
lock=e2e/clients/package-lock.json
if [ -e $lock ] && [ ! e2e/clients/node_modules/.package-lock.json -nt $lock ]; then
	say "installing the Node packages of e2e/clients"
	npm ci --prefix e2e/clients --no-audit --no-fund --silent >&2
	touch e2e/clients/node_modules/.package-lock.json
fi
