#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Statistics, a parameter, a policy that is checked, and the state of the service, through GLib's gdbus (package libglib2.0-bin).
set -eu

call() {
    gdbus call --system --dest org.ovirt.Mom1 --object-path /org/ovirt/Mom1 --method "$@"
}

call org.ovirt.Mom1.Manager.GetHostStatistics
# Values are written with their type where it isn't plain: <0.3>, <true>, <int64 5>, <'text'>.
call org.ovirt.Mom1.Policy.SetParameters "{'pressure_threshold': <0.3>}"
# Nothing is loaded: what is wrong comes back, with place and advice.
call org.ovirt.Mom1.Policy.ValidatePolicy "{'my_policy': '(defvar limit 0.2) (+ limt 1)'}"
call org.freedesktop.DBus.Properties.GetAll org.ovirt.Mom1.Manager
