#!/usr/bin/env bash
# Renders a kustomization: with kubectl, or with the kustomize that `setup.sh lint` built. Debian's
# kubectl is too old for components.
set -euo pipefail
tools=$(dirname "$0")/../${CARGO_TARGET_DIR:-target}/tools
if kubectl version --client -o yaml 2>/dev/null | grep -qE '^kustomizeVersion: v([5-9]|[1-9][0-9])'; then
    exec kubectl kustomize "$@"
fi
if command -v kustomize >/dev/null 2>&1; then
    exec kustomize build "$@"
fi
[[ -x $tools/kustomize ]] || { echo 'kubectl with kustomize 5 is missing: scripts/setup.sh lint' >&2; exit 127; }
exec "$tools/kustomize" build "$@"
