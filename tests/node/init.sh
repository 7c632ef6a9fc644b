#!/bin/sh
# The first process of the node: `unshare` has given it mounts, processes and a network of its own. What a reboot keeps is
# in STATE; of the machine it sees everything, changes nothing but the cgroups, and adds the node's programs to /usr.
# usage: init.sh STATE PROGRAMS
set -eu
state=$1 programs=$2

# Volumes that the kubelet mounts are to be seen by containers.
mount --make-rshared /
mount -t tmpfs run /run
mkdir -p /run/netns /run/lock
mount -t overlay -o "lowerdir=$programs:/usr" usr /usr
for folder in var etc; do
  mkdir -p "$state/$folder" "$state/.$folder"
  mount -t overlay -o "lowerdir=/$folder,upperdir=$state/$folder,workdir=$state/.$folder" "$folder" "/$folder"
done
# An overlay does not take all that these do to files.
for folder in kubelet containerd cni; do
  mkdir -p "$state/$folder" "/var/lib/$folder"
  mount --bind "$state/$folder" "/var/lib/$folder"
done
mount --make-rshared /var/lib/kubelet
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
touch /run/ready

# A shell that waits buries what others leave behind.
while :; do
  sleep 3600 &
  wait $! || true
done
