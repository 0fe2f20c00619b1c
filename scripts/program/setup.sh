#!/bin/bash
# Install the program's compiler from Debian bookworm and cargo's registry: about 300 MB.
# Does nothing when it is there already. As root it installs missing packages (Debian's cargo where
# there is none); otherwise it names them and stops.
# ROBOCOMPUTE_TOOLS may name a folder that holds a ready sbpf-linker; otherwise it is built.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"

stamp="$PROGRAM_CACHE/ready-$RUSTC_WEB_VERSION-$SBPF_LINKER_VERSION"
[ -e "$stamp" ] && exit 0

missing=()
command -v cargo >/dev/null || missing+=(cargo-web)
# rustc-web and sbpf-linker share this LLVM; its headers are needed only to build the linker.
linker="${ROBOCOMPUTE_TOOLS:+$ROBOCOMPUTE_TOOLS/sbpf-linker}"
packages=(libllvm22)
[ -x "$linker" ] || [ -x "$PROGRAM_CACHE/bin/sbpf-linker" ] ||
  packages+=(llvm-22-dev libpolly-22-dev libzstd-dev libxml2-dev zlib1g-dev)
dpkg -s "${packages[@]}" >/dev/null 2>&1 || missing+=("${packages[@]}")
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "missing: please type: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "installing ${missing[*]}"
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" </dev/null >/dev/null
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

if [ -x "$linker" ]; then
  install -m 0755 "$linker" "$PROGRAM_CACHE/bin/sbpf-linker"
elif [ ! -x "$PROGRAM_CACHE/bin/sbpf-linker" ]; then
  LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 LLVM_PREFIX=/usr/lib/llvm-22 \
    cargo install -q sbpf-linker --version "$SBPF_LINKER_VERSION" --locked \
    --no-default-features --features bpf-linker/llvm-22 --root "$PROGRAM_CACHE"
fi
touch "$stamp"
