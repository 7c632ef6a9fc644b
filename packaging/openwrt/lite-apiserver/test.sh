#!/bin/sh
# Run by OpenWrt's CI on the installed package: name and version are its arguments.

case "$1" in
lite-apiserver)
	lite-apiserver --version | grep -F "$2" || exit 1
	lite-apiserver --help > /dev/null || exit 1
	# What it lacks is said at once, and with its own exit code.
	lite-apiserver --admin-address=
	[ $? -eq 64 ]
	;;
esac
