#!/usr/bin/env bash
# Pushes what make release made, images and chart, to a registry:
#   COSIGN_KEY=… hack/release-push.sh [DIST [REGISTRY]]
# REGISTRY is the one that the release names its images with, unless another is given.
# What is pushed is what SHA256SUMS names, or nothing is. With COSIGN_KEY, images
# and chart are signed by digest where they are, and have the provenance attached.
set -euo pipefail
cd "$(dirname "$0")/.."

dist=${1:-dist}
bin=${T2_BIN:-$PWD/bin}
. hack/release/cosign.sh
if [ -n "${COSIGN_KEY:-}" ]; then check_cosign; fi
(cd "$dist" && sha256sum --quiet --check SHA256SUMS)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOTOOLCHAIN=auto
go -C hack/tools build -o "$work/crane" github.com/google/go-containerregistry/cmd/crane
go run ./hack/release predicate --out "$work/predicate.json" "$dist"
# For a registry on this machine, which has no certificate.
insecure=()
helm_insecure=()
if [ "${REGISTRY_INSECURE:-}" = yes ]; then
  insecure=(--allow-http-registry)
  helm_insecure=(--plain-http)
fi

signed() { # REFERENCE@DIGEST
  if [ -z "${COSIGN_KEY:-}" ]; then return; fi
  sign_image "$1" "${insecure[@]}"
  attest_image "$1" slsaprovenance1 "$work/predicate.json" "${insecure[@]}"
}

version=$(basename "$(ls "$dist"/transformersquared-*.tgz)" .tgz)
version=v${version#transformersquared-}
while read -r named; do
  # NAME:VERSION@sha256:… is how the release calls it.
  image=${named%%@*} digest=${named#*@}
  name=${image##*/}
  at=${2:-${image%/*}}/$name
  mkdir "$work/$name"
  tar -x -C "$work/$name" -f "$dist/images/$name.oci.tar"
  "$work/crane" push "$work/$name" "$at:$version" >/dev/null
  pushed=$("$work/crane" digest "$at:$version")
  if [ "$pushed" != "$digest" ]; then
    echo "release-push: $at:$version has the digest $pushed, and the release $digest" >&2
    exit 1
  fi
  signed "$at@$digest"
  echo "==> $at:$version@$digest"
done <"$dist/images/digests.txt"

[ -x "$bin/helm" ] || make --no-print-directory helm
charts=${2:-$(head -n 1 "$dist/images/digests.txt" | sed 's#/[^/]*$##')}/charts
# Helm writes the archive's time into the manifest: with none, the same chart has the same
# digest in every registry.
cp "$dist"/transformersquared-*.tgz "$work/"
touch -d @0 "$work"/transformersquared-*.tgz
"$bin/helm" push "$work"/transformersquared-*.tgz "oci://$charts" "${helm_insecure[@]}" >"$work/chart.txt" 2>&1 || { cat "$work/chart.txt" >&2; exit 1; }
digest=$(sed -n 's/^Digest: //p' "$work/chart.txt")
signed "$charts/transformersquared@$digest"
echo "==> oci://$charts/transformersquared@$digest"
