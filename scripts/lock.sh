#!/usr/bin/env bash
# Resolve pyproject.toml into requirements.lock: every package the project and its checks need,
# with hashes and without the address of any index. torch is not in it: jobs use torch, the
# project does not (`robocompute-node runtime add torch`).
#
# usage: lock.sh            keep what is pinned, add and remove what pyproject.toml asks for
#        lock.sh --upgrade  take the newest of everything
#        lock.sh --check    write nothing; fail when the lock is not what pyproject.toml asks for
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -f requirements.lock ] && cp requirements.lock "$work/requirements.lock"

# Universal: one lock for every platform and every Python from 3.11 on. The output file is also
# the input that says what is pinned already.
options=(--universal --python-version 3.11 --extra node --extra tracker --extra dev
    --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
    --output-file "$work/requirements.lock")
[ "$mode" = --upgrade ] && options+=(--upgrade)
.venv/bin/uv pip compile pyproject.toml "${options[@]}"

if [ "$mode" = --check ]; then
    diff -u requirements.lock "$work/requirements.lock" >&2 || {
        echo 'lock: requirements.lock is not what pyproject.toml asks for; run: make lock' >&2
        exit 1
    }
    echo 'lock: current'
else
    cp "$work/requirements.lock" requirements.lock
    echo "lock: $(grep -c '==' requirements.lock) packages in requirements.lock"
fi
