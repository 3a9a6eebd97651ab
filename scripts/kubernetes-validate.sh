#!/usr/bin/env bash
# kubernetes-validate, from PyPI, in a folder of its own: it carries the schemas of Kubernetes.
set -euo pipefail
python=$(dirname "$0")/../target/tools/python/bin
[[ -x $python/kubernetes-validate ]] || { echo 'kubernetes-validate is missing: scripts/setup.sh lint' >&2; exit 127; }
exec "$python/kubernetes-validate" "$@"
