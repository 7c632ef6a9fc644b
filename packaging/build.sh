#!/usr/bin/env bash
# Static binaries for boxes: `packaging/build.sh [--minimal|--full|--both] [--out DIR] TARGET...` puts
# `lite-apiserver-VERSION-TARGET[-minimal]`, an SBOM beside each, and SHA256SUMS into DIR (target/static).
#
# A target is a short name below or any Rust triple `*-linux-musl*`; none named: all with a short name. `--minimal` knows
# the record engines `file` and `memory`; `--full` (the default) is what `cargo build` makes, and redb.
#
# The same sources and the same Rust make the same bytes, whatever the folder: packaging/reproducible.sh shows it.
# Needs Rust, python3 and, the first time, the package registries of both. The linker (zig, which brings musl) and
# cargo-zigbuild are kept in a cache outside the checkout.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lite-apiserver
zig_version=0.15.2
zigbuild_version=0.24.0
# What this zig brings, and is linked in.
linked=(musl=1.2.5=MIT "llvm-libunwind=20.1=Apache-2.0 WITH LLVM-exception")
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

# Says with which options cargo gets a standard library for this triple. One of its own, for size and without the reader of
# debug information that a stripped binary has no use for (150 KB less), built from this compiler's sources; where those
# cannot be had, rustup's.
std_of() {
  local triple=$1 sysroot
  sysroot=$(rustc --print sysroot)
  if [ -d "$sysroot/lib/rustlib/src/rust/library/std" ] || { command -v rustup && rustup component add rust-src; } > /dev/null 2>&1; then
    echo -Zbuild-std=std,panic_unwind -Zbuild-std-features=panic-unwind,optimize_for_size
  elif [ -d "$sysroot/lib/rustlib/$triple/lib" ] || { command -v rustup && rustup target add "$triple"; } > /dev/null 2>&1; then
    echo "build.sh: no rust-src: rustup's standard library is linked in, which makes other bytes" >&2
  else
    echo "build.sh: no standard library for $triple; put rust-src of $(rustc --version) below $sysroot/lib/rustlib/src" >&2
    return 1
  fi
}

build() {
  local name=$1 set=$2 triple std features=() suffix='' binary
  triple=$(triple_of "$name")
  std=$(std_of "$triple")
  local standard=()
  read -ra standard <<< "$std"
  if [ "$set" = minimal ]; then
    features=(--no-default-features)
    suffix=-minimal
  fi
  # Paths end up in the messages of panics: what is in the folders of this machine is named as if it were elsewhere.
  local flags=(-Clink-self-contained=no
    "--remap-path-prefix=$root=/lite-apiserver"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    "--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc")
  echo "building $name ($triple), $set" >&2
  (
    cd "$root"
    # To build the standard library is not stable yet.
    [ ${#standard[@]} = 0 ] || export RUSTC_BOOTSTRAP=1
    IFS=$'\x1f'
    export CARGO_ENCODED_RUSTFLAGS="${flags[*]}"
    unset IFS RUSTFLAGS
    "$cache/tools/bin/cargo-zigbuild" zigbuild --quiet --locked --profile dist --target "$triple" --target-dir "$target_dir" \
      ${features[@]+"${features[@]}"} ${standard[@]+"${standard[@]}"}
  )
  binary=lite-apiserver-$version-$name$suffix
  install -m 755 "$target_dir/$triple/dist/lite-apiserver" "$out/$binary"
  sbom "$triple" "$out/$binary" ${features[@]+"${features[@]}"}
  wc -c "$out/$binary"
}

# Writes beside a binary what is in it.
sbom() {
  local triple=$1 binary=$2 metadata
  shift 2
  metadata=$(mktemp)
  (cd "$root" && cargo metadata --locked --format-version 1 --filter-platform "$triple" "$@") > "$metadata"
  python3 "$here/sbom.py" "$metadata" "$root/Cargo.lock" "$binary" "$SOURCE_DATE_EPOCH" "${linked[@]}" \
    "rust-std=$(rustc --version | cut -d' ' -f2)=MIT OR Apache-2.0" > "$binary.cdx.json"
  rm "$metadata"
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
out=${out:-$target_dir/static}
mkdir -p "$out"
out=$(cd "$out" && pwd)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2> /dev/null || echo 0)}
export SOURCE_DATE_EPOCH
tools
for target in "${targets[@]}"; do
  for set in "${sets[@]}"; do
    build "$target" "$set"
  done
done
(cd "$out" && sha256sum "lite-apiserver-$version-"* > SHA256SUMS)
