#!/bin/bash
# Build the settlement program, its digest and its IDL into programs/settlement/.
# With `--into DIR` the program goes to DIR instead and nothing else is written.
# The same sources and compiler give the same bytes wherever the checkout lies.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/env.sh"
source=$(readlink -f "$here/../../programs/settlement")
into=$source
target=${CARGO_TARGET_DIR:-$source/target}
if [ "${1:-}" = --into ]; then
  into=$(readlink -f "$2")
  target=$into/target
fi

cd "$source"
if [ -z "${ROBOCOMPUTE_SBF:-}" ] && cargo build-sbf --version >/dev/null 2>&1; then
  # Another compiler gives other bytes: its build is for use, and is compared with nothing.
  cargo build-sbf --manifest-path program/Cargo.toml --sbf-out-dir "$target/deploy"
  built=$target/deploy/settlement_program.so
else
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
  # build-std and these flags are for this target alone, so they are not in a config file that
  # `cargo test` on the host would read too.
  env LD_LIBRARY_PATH="$rust/lib/x86_64-linux-gnu" RUSTC="$rust/bin/rustc" RUSTC_BOOTSTRAP=1 \
    CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")" CARGO_TARGET_DIR="$target" \
    cargo build -q --locked --release -Zbuild-std=core --target "$PROGRAM_TARGET" \
    -p robocompute-settlement-program
  built=$target/$PROGRAM_TARGET/release/libsettlement_program.so
  [ -e "$built" ] || built=$target/$PROGRAM_TARGET/release/settlement_program.so
fi

if [ "$into" != "$source" ]; then
  cp "$built" "$into/settlement.so"
  exit 0
fi
cmp -s "$built" settlement.so || cp "$built" settlement.so
sha256sum settlement.so >settlement.so.sha256.new
if cmp -s settlement.so.sha256.new settlement.so.sha256; then
  rm settlement.so.sha256.new
else
  mv settlement.so.sha256.new settlement.so.sha256
fi
CARGO_TARGET_DIR=$target cargo run -q --locked --features idl --bin settlement-idl \
  --manifest-path interface/Cargo.toml >"$target/settlement.json"
cmp -s "$target/settlement.json" idl/settlement.json || cp "$target/settlement.json" idl/settlement.json
