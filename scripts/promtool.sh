#!/usr/bin/env bash
# promtool: the installed one, else the one that `setup.sh lint` took out of Debian's prometheus
# package (the service in it is neither installed nor started).
set -euo pipefail
tools=$(cd "$(dirname "$0")/.." && pwd)/target/tools
if command -v promtool >/dev/null 2>&1; then
    exec promtool "$@"
fi
[[ -x $tools/promtool ]] || { echo 'promtool is missing: scripts/setup.sh lint' >&2; exit 127; }
exec "$tools/promtool" "$@"
