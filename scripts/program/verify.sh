#!/bin/bash
# Prove that the committed program and IDL are what the sources give: build afresh and compare.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
recorded=$(readlink -f "$here/../../programs/settlement")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$here/build.sh" --into "$scratch"
want=$(cut -d' ' -f1 "$recorded/settlement.so.sha256")
committed=$(sha256sum "$recorded/settlement.so" | cut -d' ' -f1)
rebuilt=$(sha256sum "$scratch/settlement.so" | cut -d' ' -f1)
if [ "$want" != "$committed" ] || [ "$want" != "$rebuilt" ]; then
  echo "settlement.so does not match its sources:" >&2
  echo "  recorded  $want" >&2
  echo "  committed $committed" >&2
  echo "  rebuilt   $rebuilt" >&2
  exit 1
fi
(
  cd "$recorded"
  CARGO_TARGET_DIR=$scratch/target cargo run -q --locked --features idl --bin settlement-idl \
    --manifest-path interface/Cargo.toml
) >"$scratch/settlement.json"
if ! cmp -s "$scratch/settlement.json" "$recorded/idl/settlement.json"; then
  echo "idl/settlement.json is not what the interface crate says: run scripts/program/build.sh" >&2
  exit 1
fi
echo "settlement.so $want is what the sources give"
