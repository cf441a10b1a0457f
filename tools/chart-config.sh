#!/usr/bin/env bash
# Has every service check the configuration that a rendered chart has for it: unknown keys and wrong values are found here.
# usage: tools/chart-config.sh rendered.yaml…; the services' programs are on PATH.
set -euo pipefail
for name in ${!HALLEY_@}; do unset "$name"; done # the shell's own settings are not the chart's
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
mkdir "$files"/{secrets,nats,database}
for secret in secrets/admin-token secrets/service-token secrets/ticket-secret nats/password; do
	printf '%048d' 0 > "$files/$secret"
done
certificate=$(go env GOROOT)/src/crypto/tls/generate_cert.go
(cd "$files" && go run "$certificate" -host localhost -ca -ecdsa-curve P256)
for tls in tls public-tls; do
	mkdir "$files/$tls"
	cp "$files/cert.pem" "$files/$tls/tls.crt"
	cp "$files/cert.pem" "$files/$tls/ca.crt"
	cp "$files/key.pem" "$files/$tls/tls.key"
done
echo postgres://halley@127.0.0.1/halley > "$files/database/url"

checked=0
for rendered in "$@"; do
	chartcheck -configs "$files" "$rendered"
	for config in "$files"/*.yaml; do
		component=$(basename "$config" .yaml)
		sed -i "s|/etc/halley|$files|g" "$config"
		"$component" -config "$config" -check-config > /dev/null || { echo "$rendered: the configuration of $component is wrong" >&2; exit 1; }
		checked=$((checked + 1))
		rm "$config"
	done
done
echo "$checked configurations are good"
