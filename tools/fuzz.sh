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
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=
while IFS=: read -r file name; do
	echo "fuzz: $name in $(dirname "$file") for $time"
	# Without the bound, the time goes into making inputs shorter that only looked new.
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 1s "./$(dirname "$file")" </dev/null 2>&1 | tee "$log" && continue
	# Go may call it a failure that the time is over while a worker is busy (golang/go#75804). An input that fails is written.
	if grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input written|hung or terminated' "$log"; then
		echo "fuzz: $name ended at its time"
		continue
	fi
	failed="$failed $name"
done <<<"$targets"
[ -z "$failed" ] || { echo "fuzz: failed:$failed" >&2; exit 1; }
