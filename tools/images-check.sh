#!/usr/bin/env bash
# images-check.sh tag platforms services…: tests what makes the images, makes those of the last commit twice, from two clones in folders of
# other names, the second time with an empty build cache, and compares what is made.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=$1 platforms=$2
shift 2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
make_in() { # folder
	git clone -q --no-hardlinks . "$out/$1"
	images -root "$out/$1" -tag "$tag" -platform "$platforms" -out "$out/$1-images" "${@:2}" > /dev/null
	images -root "$out/$1" -tag "$tag" -platform "$platforms" -out "$out/$1-images" -trial > /dev/null
}
(cd tools/images && GOWORK=off go test ./...)
make_in one "$@"
GOCACHE=$out/cache make_in another/place "$@"
(cd "$out/one-images" && sha256sum -- *) > "$out/first"
(cd "$out/another/place-images" && sha256sum -- *) > "$out/second"
diff "$out/first" "$out/second" || { echo "two builds of one commit differ" >&2; exit 1; }
echo "$(grep -c '\.tar$' "$out/first") images, made twice: no difference"
