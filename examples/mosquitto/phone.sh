#!/bin/sh
# A phone made of mosquitto_sub, which acknowledges each message and connects again by itself.
set -eu
phone=${HALLEY_PHONE:-phone.json} # of curl/register.sh
exec mosquitto_sub -V 311 -h "${HALLEY_MQTT%:*}" -p "${HALLEY_MQTT##*:}" -k "${HALLEY_KEEP_ALIVE:-60}" ${HALLEY_CA:+--cafile "$HALLEY_CA"} -u "$HALLEY_APP" \
	-i "$(jq -r .token "$phone")" -P "$(jq -r .secret "$phone")" -q 1 -t "push/$HALLEY_APP"
