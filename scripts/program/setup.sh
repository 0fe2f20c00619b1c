#!/bin/bash
# Install the program's compiler from Debian bookworm and cargo's registry: about 300 MB.
# Does nothing when it is there already. Needs cargo, and root for the first run (or sudo).
# ROBOCOMPUTE_TOOLS may name a folder that holds a ready sbpf-linker; otherwise it is built.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"

stamp="$PROGRAM_CACHE/ready-$RUSTC_WEB_VERSION-$SBPF_LINKER_VERSION"
[ -e "$stamp" ] && exit 0

if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust first (rustup, or Debian's cargo-web)" >&2
  exit 1
fi

root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)
if ! dpkg -s libllvm22 llvm-22-dev >/dev/null 2>&1; then
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq --no-install-recommends \
    llvm-22-dev libpolly-22-dev libzstd-dev libxml2-dev zlib1g-dev >/dev/null
fi

mkdir -p "$PROGRAM_CACHE/packages" "$PROGRAM_CACHE/rust" "$PROGRAM_CACHE/bin"
(
  cd "$PROGRAM_CACHE/packages"
  for package in rustc-web libstd-rust-web-1.96 libstd-rust-web-dev rust-web-src; do
    ls "${package}_"*.deb >/dev/null 2>&1 ||
      apt-get download -qq -o APT::Sandbox::User=root "$package=$RUSTC_WEB_VERSION"
    dpkg-deb -x "${package}_"*.deb "$PROGRAM_CACHE/rust"
  done
)

linker="${ROBOCOMPUTE_TOOLS:+$ROBOCOMPUTE_TOOLS/sbpf-linker}"
if [ -n "$linker" ] && [ -x "$linker" ]; then
  install -m 0755 "$linker" "$PROGRAM_CACHE/bin/sbpf-linker"
elif [ ! -x "$PROGRAM_CACHE/bin/sbpf-linker" ]; then
  LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 LLVM_PREFIX=/usr/lib/llvm-22 \
    cargo install -q sbpf-linker --version "$SBPF_LINKER_VERSION" --locked \
    --no-default-features --features bpf-linker/llvm-22 --root "$PROGRAM_CACHE"
fi
touch "$stamp"
