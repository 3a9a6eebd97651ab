#!/usr/bin/env bash
# buf, for the contract: the installed one, else the pinned one from npm, which carries its
# binary and needs no other tool.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v buf >/dev/null 2>&1; then
    exec buf "$@"
fi
exec npx --yes @bufbuild/buf@1.75.0 "$@" </dev/null
