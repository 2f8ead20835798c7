#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The service from a shell script with JSON: busctl (package systemd) asks, anything that reads JSON takes the answer.
set -eu

call() {
    interface=$1
    shift
    busctl --json=short call org.ovirt.Mom1 /org/ovirt/Mom1 "org.ovirt.Mom1.$interface" "$@"
}

field() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0][sys.argv[1]]["data"])' "$1"
}

echo "free: $(call Manager GetHostStatistics | field mem_free) KiB"
call Policy SetParameters 'a{sv}' 1 pressure_threshold d 0.3
call Policy GetNamedPolicies
busctl --json=short get-property org.ovirt.Mom1 /org/ovirt/Mom1 org.ovirt.Mom1.Manager Status StatusReasons
