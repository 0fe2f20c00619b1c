#!/usr/bin/env bash
# Put torch into a jobs' base runtime under the folder given, for the tests marked torch.
# About 5 GB are fetched the first time; progress is shown. Running it again is harmless.
#
# usage: torch.sh HOME   (HOME becomes a node's data folder; its runtimes/ is what the tests use)
set -euo pipefail
cd "$(dirname "$0")/.."
home=$1

mkdir -p "$home"
echo "torch: adding torch to the jobs' base runtime in $home (about 5 GB the first time)"
ROBOCOMPUTE_HOME=$home .venv/bin/robocompute-node runtime add torch numpy
touch "$home/.ready"
