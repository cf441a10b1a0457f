#!/bin/sh
# A business server: pushes to the phone of phone.json, waits a moment, and shows what became of it.
set -eu
token=$(jq -r .token "${HALLEY_PHONE:-phone.json}")
# In earnest the idempotency key says what the push is about, such as order-7-shipped: repeating the call then pushes once.
key=$(od -An -N8 -tx1 /dev/urandom | tr -d ' ')
id=$(curl -sS --fail-with-body "$HALLEY_URL/v1/apps/$HALLEY_APP/pushes" -H "Authorization: Bearer $HALLEY_KEY" -d '{
  "audience": {"devices": {"tokens": ["'"$token"'"]}},
  "notification": {"title": "Hi", "body": "'"${1:-from curl}"'"},
  "policy": {"ttl": "3600s", "idempotency_key": "'"$key"'"}}' | jq -r .push_id)
sleep 1
curl -sS --fail-with-body "$HALLEY_URL/v1/apps/$HALLEY_APP/pushes/$id" -H "Authorization: Bearer $HALLEY_KEY" | jq -c '{push_id, counts}'
