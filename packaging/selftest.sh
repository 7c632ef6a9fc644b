#!/usr/bin/env bash
# The static binaries at work, each on an emulated processor of its own: `packaging/selftest.sh [--full] [TARGET...]` builds
# them (all; the smallest set) and runs the black-box tests of TLS, identity, recording, recall and streams against each.
# Needs what build.sh needs, and qemu-user-static of Debian.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
set=minimal
if [ "${1:-}" = --full ]; then
  set=full
  shift
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(x86_64 aarch64 armv7hf armv6 riscv64gc mipsel)

# The oldest processor that the target is for.
emulator() {
  case $1 in
    "$(uname -m)") ;;
    x86_64) echo qemu-x86_64-static ;;
    aarch64) echo qemu-aarch64-static -cpu cortex-a53 ;;
    armv7hf) echo qemu-arm-static -cpu cortex-a7 ;;
    armv6) echo qemu-arm-static -cpu arm1176 ;;
    riscv64gc) echo qemu-riscv64-static ;;
    mipsel) echo qemu-mipsel-static -cpu 24Kc ;;
    *) return 1 ;;
  esac
}

cd "$root"
out=${CARGO_TARGET_DIR:-target}/static
failed=()
for target in "${targets[@]}"; do
  by=$(emulator "$target") || {
    echo "selftest.sh: no emulator is known for $target" >&2
    exit 64
  }
  packaging/build.sh "--$set" --out "$out" "$target"
  binary=$(realpath "$out")/lite-apiserver-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)-$target
  [ "$set" = full ] || binary+=-minimal
  echo "$target: ${by:-this machine}"
  # One at a time: an emulated processor is slow.
  LITE_APISERVER="${by:+$by }$binary" cargo test --quiet --locked --test proxy -- --test-threads=2 \
    offline:: collections:: identity:: streams:: protobuf:: || failed+=("$target")
done
[ ${#failed[@]} = 0 ] || {
  echo "failed: ${failed[*]}" >&2
  exit 1
}
