#!/usr/bin/env bash
# Makes a release of the committed tree in dist: make release VERSION=v0.1.0
#   images/      OCI layouts (manager and t2 for amd64 and arm64; judge, and with
#                RELEASE_CUDA=yes t2-cuda, for amd64)
#   manifests/   CRDs, config/default and config/namespaced with the release's images
#   *.tgz        the Helm chart, kubectl-t2-*.tar.gz and its manifest for Krew
#   sbom/        a CycloneDX bill a program
#   SHA256SUMS, provenance.intoto.json
#   *.sigstore.json  where COSIGN_KEY signs: of checksums, chart and provenance
# The same commit and the same Go give the same bytes: hack/release-twice.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${VERSION:-}
images=${IMG_BASE:-transformersquared.dev}
dist=${DIST:-dist}
bin=${T2_BIN:-$PWD/bin}
from=${RELEASE_URL:-https://github.com/transformersquared/operator/releases/download/$version}
if ! [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
  echo "release: VERSION=$version: want a version such as VERSION=v0.1.0" >&2
  exit 2
fi
commit=$(git rev-parse HEAD)
changed=()
if [ -n "$(git status --porcelain)" ]; then
  [ "${RELEASE_CHANGED:-}" = yes ] || { echo "release: files differ from commit $commit: commit them first (RELEASE_CHANGED=yes builds all the same, and the provenance says so)" >&2; exit 1; }
  changed=(--changed)
fi
# Now, and not when all is built.
. hack/release/cosign.sh
if [ -n "${COSIGN_KEY:-}" ]; then check_cosign; fi

# The Go that go.mod names, with its mended standard library, is what ships.
export GOTOOLCHAIN=auto
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One program is built for the machine that it runs on; its own bytes go nowhere.
go build -o "$work/release" ./hack/release
go -C hack/cluster build -o "$work/t2cluster" ./t2cluster
release=$work/release
export GOFLAGS="-trimpath -buildvcs=false"
rm -rf "$dist"
mkdir -p "$dist"/{images,manifests,sbom}

build() { # OS ARCH PACKAGE FILE
  CGO_ENABLED=0 GOOS=$1 GOARCH=$2 hack/alive.sh "$(basename "$4") for $1/$2: building" "seconds, the first time 3 minutes" \
    go build -ldflags "-s -w -X github.com/transformersquared/operator/runtime/contract.release=$version" -o "$4" "$3"
}
image() { # ARCH TARBALL NAME ARGUMENT...
  local arch=$1 file=$2 name=$3
  shift 3
  "$work/t2cluster" image --arch "$arch" --out "$file" --name "$images/$name:$version" "$@"
}
digests=()
index() { # NAME PLATFORM=TARBALL...
  local digest
  digest=$("$release" index --out "$dist/images/$1.oci.tar" --name "$images/$1:$version" "${@:2}")
  digests+=(--image "$images/$1@$digest")
  echo "$images/$1@$digest" >>"$dist/images/digests.txt"
}

# Fewer than both is for trying it out.
read -ra arches <<<"${RELEASE_ARCHES:-amd64 arm64}"
for arch in "${arches[@]}"; do
  mkdir -p "$work/$arch"
  build linux "$arch" . "$work/$arch/manager"
  build linux "$arch" ./runtime "$work/$arch/t2"
  for program in manager t2; do
    image "$arch" "$work/$program-$arch.tar" $program --add "$work/$arch/$program:/$program" --entrypoint "/$program"
    "$release" sbom --version "$version" --out "$dist/sbom/$program-linux-$arch.cdx.json" "$work/$arch/$program"
  done
done
for program in manager t2; do
  tarballs=()
  for arch in "${arches[@]}"; do tarballs+=("linux/$arch=$work/$program-$arch.tar"); done
  index "$program" "${tarballs[@]}"
done

# The judge has Debian's CPython for this machine's architecture.
if [ "$(go env GOHOSTARCH)" = amd64 ] && [ -x "$work/amd64/t2" ]; then
  hack/judge-image.sh "$bin/judge"
  image amd64 "$work/judge-amd64.tar" judge --add "$bin/judge/root:/" --add "$work/amd64/t2:/t2" --entrypoint /t2 --entrypoint judge-server
  index judge linux/amd64="$work/judge-amd64.tar"
  "$release" sbom --version "$version" --debian "$bin/judge/root/usr/share/doc/judge/packages" --out "$dist/sbom/judge-linux-amd64.cdx.json" "$work/amd64/t2"
else
  echo "release: neither this machine nor t2 is for amd64: the release has no image of the judge" >&2
fi
if [ "${RELEASE_CUDA:-}" = yes ]; then
  make --no-print-directory image-cuda IMG_REGISTRY="$images" TAG="$version"
  index t2-cuda linux/amd64="$bin/images/t2-cuda.tar"
  "$release" sbom --version "$version" --out "$dist/sbom/t2-cuda-linux-amd64.cdx.json" "$bin/t2-cuda"
else
  echo "release: t2-cuda is left out (RELEASE_CUDA=yes makes it; it needs a C compiler)" >&2
fi

[ -x "$bin/helm" ] || make --no-print-directory helm
"$bin/helm" package config/chart --destination "$dist" --version "${version#v}" --app-version "$version" >/dev/null
"$release" repack "$dist/transformersquared-${version#v}.tgz"
kubectl=${KUBECTL:-$bin/cluster/kubectl}
for folder in crd default namespaced; do
  "$kubectl" kustomize "config/$folder" |
    sed "s#transformersquared.dev/\(manager\|t2\|t2-cuda\|judge\):dev\$#$images/\1:$version#" >"$dist/manifests/$folder.yaml"
done

if [ -d controllers/kubectl-t2 ]; then
  archives=()
  for platform in ${RELEASE_PLUGINS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}; do
    os=${platform%/*} arch=${platform#*/} suffix=
    if [ "$os" = windows ]; then suffix=.exe; fi
    folder=$work/kubectl-$os-$arch
    mkdir -p "$folder"
    build "$os" "$arch" ./controllers/kubectl-t2 "$folder/kubectl-t2$suffix"
    archive=$dist/kubectl-t2-$version-$os-$arch.tar.gz
    "$release" archive --out "$archive" "$folder/kubectl-t2$suffix" LICENSE
    archives+=("$platform=$archive")
    "$release" sbom --version "$version" --out "$dist/sbom/kubectl-t2-$os-$arch.cdx.json" "$folder/kubectl-t2$suffix"
  done
  "$release" krew --version "$version" --from "$from" --out "$dist/t2.krew.yaml" "${archives[@]}"
fi

"$release" sums "$dist"
"$release" provenance --commit "$commit" --version "$version" --images "$images" --go "$(go env GOVERSION)" \
  --builder "${BUILDER_ID:-}" "${changed[@]}" "${digests[@]}" "$dist"

if [ -n "${COSIGN_KEY:-}" ]; then
  sign_release "$dist"
  echo "==> $dist: $version, signed; crane push or skopeo copies $dist/images to a registry, where cosign signs them by digest"
else
  echo "==> $dist: $version, NOT SIGNED: COSIGN_KEY=… names the key that cosign signs checksums, chart and provenance with" >&2
fi
