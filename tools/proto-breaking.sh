#!/usr/bin/env bash
# Checks that the protos here break nobody who uses those of the main branch's last commit. The commit is unpacked beside
# the third-party protos, which no commit has. Needs buf in PATH and .build/proto-deps.
set -euo pipefail
cd "$(dirname "$0")/.."

git rev-parse --git-dir >/dev/null # a broken repository is not one without a main branch
against=
for ref in refs/heads/main refs/remotes/origin/main; do
	if git cat-file -e "$ref:buf.yaml" 2>/dev/null && git cat-file -e "$ref:proto" 2>/dev/null; then
		against=$ref
		break
	fi
done
if [ -z "$against" ]; then
	echo "proto-breaking: no main branch with protos here: nothing to compare with"
	exit 0
fi

rm -rf .build/main
mkdir -p .build/main/.build
git archive "$against" buf.yaml proto | tar -x -C .build/main
cp -r .build/proto-deps .build/main/.build/proto-deps
buf breaking --against .build/main
echo "proto-breaking: nothing broken since $(git rev-parse --short "$against") ($against)"
