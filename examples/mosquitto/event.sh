#!/bin/sh
# event.sh PUSH_ID shown|clicked|dismissed: says what the user did with a message. mosquitto_pub ends when the server has it.
# It takes over the phone's connection for that moment; an app would publish on the one it has.
set -eu
phone=${HALLEY_PHONE:-phone.json}
exec mosquitto_pub -V 311 -h "${HALLEY_MQTT%:*}" -p "${HALLEY_MQTT##*:}" -k "${HALLEY_KEEP_ALIVE:-60}" -u "$HALLEY_APP" \
	-i "$(jq -r .token "$phone")" -P "$(jq -r .secret "$phone")" -q 1 -t "event/$HALLEY_APP" \
	-m '{"push_id":"'"$1"'","type":"'"$2"'"}'
