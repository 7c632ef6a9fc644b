#!/usr/bin/env bash
# Shows that the same sources make the same bytes: `packaging/reproducible.sh [TARGET...]` builds each (x86_64) as it is
# committed in two folders, with two folders of cargo's own, and compares all that comes out, sums and SBOMs too.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(x86_64)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The first has the machine's own crates, the second fetches them anew to a place of its own.
for side in one another/and-deeper; do
  mkdir -p "$work/$side/src"
  git -C "$root" archive HEAD | tar -x -C "$work/$side/src"
  [ "$side" = one ] || export CARGO_HOME=$work/$side/cargo
  # A checkout knows when its commit was made, an archive does not.
  env -u CARGO_TARGET_DIR "SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct)" \
    "$work/$side/src/packaging/build.sh" --minimal --out "$work/$side/out" "${targets[@]}"
done
diff -r "$work/one/out" "$work/another/and-deeper/out"
cat "$work/one/out/SHA256SUMS"
echo 'the same bytes from both folders'
