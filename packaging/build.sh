#!/usr/bin/env bash
# Static binaries for boxes: `packaging/build.sh [--minimal|--full|--both] [--out DIR] TARGET...` puts
# `lite-apiserver-VERSION-TARGET[-minimal]`, an SBOM beside each, and SHA256SUMS into DIR (target/dist).
#
# A target is a short name below or any Rust triple `*-linux-musl*`; none named: all with a short name. `--minimal` knows
# the record engines `file` and `memory`; `--full` (the default) is what `cargo build` makes, and redb.
#
# The same sources and the same Rust make the same bytes, whatever the folder: packaging/reproducible.sh shows it.
# Needs Rust, python3 and, the first time, the registries of PyPI and crates.io. The linker (zig, which brings musl) and
# cargo-zigbuild are kept in a cache outside the checkout.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lite-apiserver
zig_version=0.15.2
zigbuild_version=0.24.0
all=(x86_64 aarch64 armv7hf armv6 riscv64gc mipsel)

usage() {
  echo "usage: packaging/build.sh [--minimal|--full|--both] [--out DIR] [TARGET...]; targets: ${all[*]}, or a Rust triple" >&2
  exit 64
}

triple_of() {
  case $1 in
    x86_64 | aarch64 | riscv64gc | mipsel) echo "$1-unknown-linux-musl" ;;
    armv7hf) echo armv7-unknown-linux-musleabihf ;;
    # Soft-float calls: runs where there is a floating point unit, too.
    armv6) echo arm-unknown-linux-musleabi ;;
    *-linux-musl*) echo "$1" ;;
    *) return 1 ;;
  esac
}

tools() {
  zig=$cache/tools/zig-$zig_version/ziglang/zig
  if ! [ -x "$zig" ]; then
    echo "fetching zig $zig_version" >&2
    rm -rf "$cache/tools/zig-$zig_version"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
      --target "$cache/tools/zig-$zig_version" "ziglang==$zig_version" >&2
  fi
  if ! "$cache/tools/bin/cargo-zigbuild" --version 2> /dev/null | grep -qF " $zigbuild_version"; then
    echo "building cargo-zigbuild $zigbuild_version" >&2
    CARGO_TARGET_DIR=$cache/tools/target-zigbuild \
      cargo install --quiet --locked --root "$cache/tools" "cargo-zigbuild@$zigbuild_version" >&2
    rm -rf "$cache/tools/target-zigbuild"
  fi
  export CARGO_ZIGBUILD_ZIG_PATH=$zig CARGO_ZIGBUILD_CACHE_DIR=$cache/tools/zigbuild ZIG_GLOBAL_CACHE_DIR=$cache/tools/zig-cache
}

# Says with which options cargo gets a standard library for this triple: rustup's, or one built from rust-src.
std_of() {
  local triple=$1 sysroot
  sysroot=$(rustc --print sysroot)
  if [ -d "$sysroot/lib/rustlib/$triple/lib" ]; then
    return
  fi
  if command -v rustup > /dev/null && rustup target add "$triple" > /dev/null 2>&1; then
    return
  fi
  if ! [ -d "$sysroot/lib/rustlib/src/rust/library/std" ]; then
    { command -v rustup > /dev/null && rustup component add rust-src > /dev/null 2>&1; } || {
      echo "build.sh: there is no standard library for $triple; install rust-src of $(rustc --version) at $sysroot/lib/rustlib/src" >&2
      return 1
    }
  fi
  echo -Zbuild-std=std,panic_unwind
}

build() {
  local name=$1 set=$2 triple std features=() suffix='' binary
  triple=$(triple_of "$name")
  std=$(std_of "$triple")
  if [ "$set" = minimal ]; then
    features=(--no-default-features)
    suffix=-minimal
  fi
  # Paths end up in the messages of panics: what is in the folders of this machine is named as if it were elsewhere.
  local flags=(-Clink-self-contained=no
    "--remap-path-prefix=$root=/lite-apiserver"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    "--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc")
  echo "building $name ($triple), $set${std:+, with its own standard library}" >&2
  (
    cd "$root"
    # -Zbuild-std is not stable; what it builds is this compiler's own standard library.
    [ -z "$std" ] || export RUSTC_BOOTSTRAP=1
    IFS=$'\x1f'
    export CARGO_ENCODED_RUSTFLAGS="${flags[*]}"
    unset IFS RUSTFLAGS
    "$cache/tools/bin/cargo-zigbuild" zigbuild --quiet --locked --release --target "$triple" --target-dir "$target_dir" \
      ${features[@]+"${features[@]}"} ${std:+"$std"}
  )
  binary=lite-apiserver-$version-$name$suffix
  install -m 755 "$target_dir/$triple/release/lite-apiserver" "$out/$binary"
  wc -c "$out/$binary"
}

sets=(full)
out=''
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --minimal) sets=(minimal) ;;
    --full) sets=(full) ;;
    --both) sets=(minimal full) ;;
    --out)
      [ $# -gt 1 ] || usage
      out=$2
      shift
      ;;
    -*) usage ;;
    *)
      triple_of "$1" > /dev/null || usage
      targets+=("$1")
      ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
target_dir=${CARGO_TARGET_DIR:-$root/target}
out=${out:-$target_dir/dist}
mkdir -p "$out"
out=$(cd "$out" && pwd)
tools
for target in "${targets[@]}"; do
  for set in "${sets[@]}"; do
    build "$target" "$set"
  done
done
