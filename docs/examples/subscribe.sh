#!/usr/bin/env bash
# Events of every device, one line each: topic and payload. Usage: subscribe.sh [HOST [PORT]]
exec mosquitto_sub -V 5 -q 1 -h "${1:-localhost}" -p "${2:-1883}" -t 'girasol/+/event' -F '%t %p'
