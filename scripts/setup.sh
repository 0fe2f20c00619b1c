#!/usr/bin/env bash
# Make .venv ready to work in: system packages, a Python environment with exactly what
# requirements.lock names (hashes checked), and this project in editable mode.
#
# On Debian as root it installs missing system packages; otherwise it names them with the
# command to type, and stops. Running it again is harmless. `make setup` runs it when needed.
#
# ROBOCOMPUTE_PYTHON: the interpreter to build on (3.11 or newer), where the default will not do.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_python() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# The system's own interpreter comes first: it lies under /usr, which every sandbox has.
find_python() {
    local candidate
    for candidate in "${ROBOCOMPUTE_PYTHON:-}" /usr/bin/python3.11 /usr/bin/python3 python3.11 python3; do
        if [ -n "$candidate" ] && is_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; on Debian 12: apt-get install python3"
}

# What is missing, as Debian package names. Each is told by what it is needed for, so that a
# compiler or sandbox that came another way counts as well.
missing_packages() {
    local python=$1
    command -v gcc >/dev/null || echo gcc libc6-dev
    echo '#include <gmp.h>' | gcc -E - >/dev/null 2>&1 || echo libgmp-dev
    "$python" -c '
import pathlib, sysconfig
raise SystemExit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())
' || echo python3-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    command -v bwrap >/dev/null || echo bubblewrap
    # Tests lay networks with real address translation, which only root may; else they are skipped.
    if [ "$(id -u)" = 0 ]; then
        command -v ip >/dev/null || echo iproute2
        command -v nft >/dev/null || echo nftables
    fi
}

install_packages() {
    local command="apt-get install -y --no-install-recommends $*"
    if ! command -v apt-get >/dev/null; then
        fail "please install what Debian calls: $*"
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "missing system packages; please type: sudo $command"
    fi
    say "installing system packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    # A fresh machine has no package lists, an old one has stale ones: update in both cases.
    apt-get update -qq </dev/null
    $command -qq -o Dpkg::Use-Pty=0 </dev/null >/dev/null
}

# Print the lock's entries for the named packages, with their hashes.
locked() {
    awk -v names=" $* " '
        { split($0, word, "=="); if (index(names, " " word[1] " ")) taken = 1 }
        taken { print }
        taken && !/\\$/ { taken = 0 }
    ' requirements.lock
}

python=$(find_python)
missing=$(missing_packages "$python" | tr '\n' ' ')
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # a list of package names
    install_packages $missing
fi

# An environment on another interpreter (or one that is gone) is made anew.
if ! [ -x .venv/bin/python ] || ! is_python .venv/bin/python; then
    say "making .venv with $python"
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f .venv/.ready

# pip reads its own configuration (index, certificate); uv is told of the same index by name.
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
    index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)
    index=${PIP_INDEX_URL:-$index}
    if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
fi

say "installing $(grep -c '==' requirements.lock) locked packages into .venv"
bootstrap=$(mktemp)
trap 'rm -f "$bootstrap"' EXIT
# uv installs the rest in seconds where pip takes a minute; setuptools builds the four packages
# that come as source only, so that nothing unlocked is fetched for it.
locked uv setuptools >"$bootstrap"
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --require-hashes --no-deps -r "$bootstrap"
.venv/bin/uv pip sync --quiet --python .venv/bin/python \
    --require-hashes --no-build-isolation requirements.lock
# libp2p imports trio_typing when it runs. Its stubs are of a trio of years ago, and a type checker
# would take them for trio itself, which has had types of its own since.
rm -rf .venv/lib/python3*/site-packages/trio-stubs
.venv/bin/uv pip install --quiet --python .venv/bin/python \
    --no-deps --no-build-isolation --editable .
touch .venv/.ready
say "ready: $(.venv/bin/python --version) in .venv"
