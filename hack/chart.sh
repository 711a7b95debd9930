#!/usr/bin/env bash
# Writes what the Helm chart shares with other folders of config into config/chart,
# so that each has one source: CRDs as templates, and roles, NetworkPolicies and
# what monitors as files that templates render. hack/generate.sh calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

chart=config/chart
rm -rf "$chart/templates/crds" "$chart/files"
mkdir -p "$chart/templates/crds" "$chart"/files/{rbac,network,monitoring}

for crd in config/crd/bases/*.yaml; do
  if grep -q '{{' "$crd"; then
    echo "chart: $crd has {{, which Helm would take for a template: write it otherwise in the API's comments" >&2
    exit 1
  fi
  file=$chart/templates/crds/$(basename "$crd" | sed 's/^transformersquared\.dev_//')
  {
    echo '{{- /* Made by hack/chart.sh from config/crd. */}}'
    echo '{{- if .Values.crds.install }}'
    sed -e '/^---$/d' -e '/^  annotations:$/a\    {{- include "t2.crdAnnotations" . | nindent 4 }}' \
      -e '/^  name: .*\.transformersquared\.dev$/a\  labels:\n    {{- include "t2.labels" . | nindent 4 }}' "$crd"
    echo '{{- end }}'
  } >"$file"
  if [ "$(grep -c 'include "t2\.' "$file")" -ne 2 ]; then
    echo "chart: $crd has its annotations or its name elsewhere than expected: hack/chart.sh must follow" >&2
    exit 1
  fi
done

for role in role leader_election metrics user_roles; do
  cp "config/rbac/$role.yaml" "$chart/files/rbac/$role.yaml"
done

cp config/network/operator/operator.yaml config/network/namespace/{serving,jobs}.yaml "$chart/files/network/"
cp config/monitoring/{operator,pods,rules}.yaml config/monitoring/dashboard.json "$chart/files/monitoring/"
