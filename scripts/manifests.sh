#!/usr/bin/env bash
# The manifests: `copy` makes the monitoring component's copies of ops/; without an argument, they
# must be fresh, and every kustomization must render and hold against Kubernetes' own schemas,
# without a cluster. What is rendered lies in target/manifests.
set -euo pipefail
cd "$(dirname "$0")/.."
monitoring=k8s/components/monitoring

prometheus_rule() {
    cat <<'HEAD'
# Made from ops/prometheus/rules.yaml by `make manifests`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rater
  labels:
    app.kubernetes.io/name: rater
    app.kubernetes.io/component: service
spec:
HEAD
    sed -n '/^groups:/,$ s/^./  &/p; ' ops/prometheus/rules.yaml
}

if [[ ${1:-} == copy ]]; then
    prometheus_rule >$monitoring/rules.yaml
    cp ops/grafana/rater.json $monitoring/rater.json
fi
diff <(prometheus_rule) $monitoring/rules.yaml && diff ops/grafana/rater.json $monitoring/rater.json ||
    { echo 'the copies are stale: run `make manifests` and commit them' >&2; exit 1; }

mkdir -p target/manifests
# The operator's and cert-manager's own kinds have no schema among Kubernetes'.
ours() {
    awk 'BEGIN { RS = "(^|\n)---\n"; ORS = "\n---\n" } !/apiVersion: (monitoring\.coreos\.com|cert-manager\.io)\//' "$1"
}
for name in base overlays/example; do
    out=target/manifests/${name//\//-}.yaml
    scripts/kustomize.sh "k8s/$name" >"$out"
    ours "$out" >"${out%.yaml}.native.yaml"
    for version in 1.31 1.37; do
        scripts/kubernetes-validate.sh --strict --quiet -k "$version" "${out%.yaml}.native.yaml"
    done
    echo "k8s/$name: $(grep -c '^kind: ' "$out") objects, fine"
done
