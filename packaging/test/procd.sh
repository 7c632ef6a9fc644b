#!/bin/sh
# A stand-in of OpenWrt's rc.common, UCI and procd: runs an init script's action, and prints what it tells procd, a line each.
# usage: procd.sh SCRIPT ACTION; UCI_DIR: where the configuration is
# shellcheck disable=SC3043 # ash knows `local`
script=$1
action=$2

# Lines `SECTION.OPTION VALUE`, of lists one a value.
config_load() {
	local kind name value section=
	UCI=$(while read -r kind name value; do
		case $kind in
		config)
			section=${value#?}
			section=${section%?}
			;;
		option | list)
			value=${value#?}
			echo "$section.$name ${value%?}"
			;;
		esac
	done < "$UCI_DIR/$1")
}

values() { echo "$UCI" | sed -n "s/^$1\.$2 //p"; }

# Into the variable named first, which is the caller's and must not be one of these.
config_get() {
	local _value
	_value=$(values "$2" "$3" | tail -n 1)
	eval "$1=\${_value:-\${4-}}"
}

config_get_bool() {
	local found
	config_get found "$2" "$3" "$4"
	case $found in
	1 | on | true | yes | enabled) found=1 ;;
	*) found=0 ;;
	esac
	eval "$1=$found"
}

config_list_foreach() {
	local section="$1" option="$2" call="$3" each
	shift 3
	values "$section" "$option" > /tmp/procd-stand-in.$$
	while read -r each; do
		"$call" "$each" "$@"
	done < /tmp/procd-stand-in.$$
	rm -f /tmp/procd-stand-in.$$
}

procd_open_instance() { echo "instance ${1-}"; }
procd_close_instance() { echo end; }
procd_set_param() { echo "$*"; }
procd_append_param() { echo "$*"; }
procd_add_jail() { echo "jail $*"; }
procd_add_jail_mount() { echo "jail_mount $*"; }
procd_add_jail_mount_rw() { echo "jail_mount_rw $*"; }
procd_add_reload_trigger() { echo "trigger $*"; }

# shellcheck source=/dev/null
. "$script"
[ "${USE_PROCD-}" = 1 ] || exit 1
case $action in
start | reload)
	start_service
	service_triggers
	;;
*) exit 2 ;;
esac
