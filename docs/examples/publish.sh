#!/bin/sh
# A shell script with socat: sends one event, and fails unless the daemon has stored it.
#   publish.sh INTEGRATION BUSINESS "what went wrong"
set -eu
socket=${SYNCEVENTS_SOCKET:-/run/synceventsd/synceventsd.sock}
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
# jq, if there is one, quotes a text better than this.
error=$(printf %s "$3" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')

# -t: how long to wait for the answer once the input has ended.
answer=$(printf '{"event_type":"integration.sync.failed","integration_id":%d,"business_id":%d,"timestamp":"%s","data":{"integration_id":%d,"integration_type":"shell","error":"%s","failed_at":"%s"}}\n' \
	"$1" "$2" "$now" "$1" "$error" "$now" | socat -t 30 - "UNIX-CONNECT:$socket")
case $answer in
'{"ack":1}') ;;
*)
	echo "not stored: $answer" >&2
	exit 1
	;;
esac
