#!/usr/bin/env bash
# Renders a kustomization, without a cluster: with the installed kubectl, or with the one that
# `setup.sh lint` took out of Debian's package. One with kustomize before 5 does not know components well.
set -euo pipefail
tools=$(cd "$(dirname "$0")/.." && pwd)/target/tools
for kubectl in kubectl "$tools/kubectl"; do
    if "$kubectl" version --client -o yaml 2>/dev/null | grep -qE '^kustomizeVersion: v([5-9]|[1-9][0-9])'; then
        exec "$kubectl" kustomize "$@"
    fi
done
echo 'kubectl with kustomize 5 is missing: scripts/setup.sh lint' >&2
exit 127
