#!/bin/sh
# The first process of a machine of namespaces over a copy of this one's files that is thrown away: what is written is in
# memory. Becomes INIT.
# usage: machine.sh FOLDER INIT…
set -eu
folder=$1
shift
mkdir -p "$folder"
mount -t tmpfs machine "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" root "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs run run
mount -t tmpfs tmp tmp
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
  : > "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
# What this machine starts, and what it had of lite-apiserver, is none of the test's.
rm -rf etc/systemd/system/*.wants etc/lite-apiserver var/lib/lite-apiserver var/lib/private/lite-apiserver
: > etc/machine-id
ip link set lo up
: > run/machine
exec chroot . /usr/bin/env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
