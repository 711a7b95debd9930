#!/usr/bin/env bash
# Debian's Prometheus finds no pods: its build leaves out discovery by Kubernetes and by
# Consul, while that of Docker, EC2, Google, Azure and OpenStack is in. It does not say so:
# kubernetes_sd_configs, in Prometheus' own documentation, is an unknown field of the
# configuration, as if it were misspelt, to the server and to promtool alike. So a scrape
# configuration for pods cannot be checked with Debian's promtool, and pods are scraped there
# by files of targets (file_sd_configs) that something else writes.
set -euo pipefail

version=2.42.0+ds-5+deb12u1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download "prometheus=$version" >/dev/null 2>&1
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
usr/bin/promtool --version | head -1

check() { # MECHANISM
  printf 'scrape_configs:\n- job_name: pods\n  %s_configs: []\n' "$1" >prometheus.yml
  usr/bin/promtool check config prometheus.yml 2>&1
}
for there in file_sd http_sd dns_sd docker_sd ec2_sd gce_sd azure_sd openstack_sd; do
  check "$there" >/dev/null
  echo "$there: known"
done
for missing in kubernetes_sd consul_sd; do
  if check "$missing" >said; then
    echo "$missing: known now"
    exit 1
  fi
  grep "field ${missing}_configs not found" said
done
