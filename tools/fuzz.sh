#!/usr/bin/env bash
# Runs every fuzz test of the modules, one after the other, because go test -fuzz takes one at a time.
# usage: fuzz.sh TIME MODULE…
set -euo pipefail
cd "$(dirname "$0")/.."
time=$1
shift

targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "$@" | sed 's/:func /:/' | sort) || true
if [ -z "$targets" ]; then
	echo "fuzz: there is no fuzz test in $*" >&2
	exit 1
fi
while IFS=: read -r file name; do
	echo "fuzz: $name in $(dirname "$file") for $time"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null
done <<<"$targets"
