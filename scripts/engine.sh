#!/usr/bin/env bash
# Brings a container engine for the tests of the container executor, where that can be done
# without asking: as root, on a machine with apt. Elsewhere those tests are skipped, and say so.
set -euo pipefail

say() { printf 'engine: %s\n' "$*"; }

missing=()
for name in podman runc conmon catatonit; do
    command -v "$name" >/dev/null || missing+=("$name")
done
# What Podman asks about networks, in no folder of commands; it wants to know even for none.
[ -x /usr/lib/podman/netavark ] || missing+=(netavark)
if [ "${#missing[@]}" = 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "not installed: ${missing[*]}; the tests of containers will be skipped"
    exit 0
fi
say "installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y --no-install-recommends -qq \
    -o Dpkg::Use-Pty=0 "${missing[@]}"; } </dev/null >/dev/null; then
    say "they cannot be installed; the tests of containers will be skipped"
fi
