#!/bin/sh
# Registers a phone over HTTPS and prints its identity: {"token":"…","secret":"…"}. Keep it: the secret is shown once.
set -eu
# An app makes its install_id once and keeps it: registering again with it gives the same token.
install_id=${HALLEY_INSTALL_ID:-$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')}
curl -sS --fail-with-body "$HALLEY_URL/device/v1/register" -d '{
  "app": "'"$HALLEY_APP"'", "client_key": "'"$HALLEY_CLIENT_KEY"'", "install_id": "'"$install_id"'", "platform": "linux"}'
