#!/bin/bash
# Build the settlement program.
#
#   build.sh             the recorded build: settlement.so, its digest and the IDL, in
#                        programs/settlement/
#   build.sh --into DIR  the recorded build's program alone, afresh, as DIR/settlement.so
#   build.sh --official  with `cargo build-sbf`, into programs/settlement/target/deploy/
#
# The recorded build gives the same bytes wherever checkout and compiler lie. Another compiler gives
# others, so the official build never replaces the recorded one.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/env.sh"
source=$(readlink -f "$here/../../programs/settlement")
target=$source/target
into=
case "${1:-}" in
  "") ;;
  --official)
    cd "$source"
    exec cargo build-sbf --manifest-path program/Cargo.toml --sbf-out-dir "$target/deploy"
    ;;
  --into)
    into=$(readlink -f "$2")
    target=$into/target
    ;;
  *)
    echo "usage: build.sh [--into DIR | --official]" >&2
    exit 2
    ;;
esac

"$here/setup.sh"
rust=$PROGRAM_CACHE/rust/usr
flags=(
  -Clinker="$PROGRAM_CACHE/bin/sbpf-linker"
  -Cpanic=abort
  -Ctarget-cpu=v2
  -Ctarget-feature=+allows-misaligned-mem-access
  -Clink-arg=--arch=v0
  # LLVM 22 cannot compile the 128-bit and floating-point builtins for BPF.
  -Clink-arg=--disable-math-builtins
  -Clink-arg=--llvm-args=--bpf-stack-size=4096
  -Clink-arg=--llvm-args=--disable-movsx
  -Clink-arg=--llvm-args=--disable-ldsx
  # No path of this machine reaches the program.
  -Zlocation-detail=none
  --remap-path-prefix="$source=/settlement"
  --remap-path-prefix="${CARGO_HOME:-$HOME/.cargo}=/cargo"
  --remap-path-prefix="$rust=/rust"
)
cd "$source"
# build-std and these flags are for this target alone, so they are not in a config file that
# `cargo test` on the host would read too. What the compiler says is shown only when it fails: it
# always warns that misaligned access is an unstable feature, and our own warnings are errors.
build() {
  env LD_LIBRARY_PATH="$rust/lib/x86_64-linux-gnu" RUSTC="$rust/bin/rustc" RUSTC_BOOTSTRAP=1 \
    CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")" CARGO_TARGET_DIR="$target" \
    cargo build -q --locked --release -Zbuild-std=core --target "$PROGRAM_TARGET" \
    -p robocompute-settlement-program 2>&1
}
if ! log=$(build); then
  echo "$log" >&2
  exit 1
fi
built=$target/$PROGRAM_TARGET/release/libsettlement_program.so

if [ -n "$into" ]; then
  cp "$built" "$into/settlement.so"
  exit 0
fi

# Replace a file only by different bytes, so that nothing looks changed when nothing was.
replace() {
  cmp -s "$1" "$2" || cp "$1" "$2"
}
replace "$built" settlement.so
sha256sum settlement.so >"$target/settlement.so.sha256"
replace "$target/settlement.so.sha256" settlement.so.sha256
LD_LIBRARY_PATH=$rust/lib/x86_64-linux-gnu RUSTC=$rust/bin/rustc CARGO_TARGET_DIR=$target \
  cargo run -q --locked --features idl --bin settlement-idl \
  --manifest-path interface/Cargo.toml >"$target/settlement.json"
replace "$target/settlement.json" idl/settlement.json
