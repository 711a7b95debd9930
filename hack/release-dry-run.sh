#!/usr/bin/env bash
# Makes a release, signs it with a key that is thrown away, pushes it to a registry on this
# machine, and checks it as SECURITY.md says whoever gets it can; and that what is changed
# or signed by somebody else is refused. DIST=FOLDER takes a release that is there and has
# no signatures yet. Nothing leaves the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${T2_BIN:-$PWD/bin}
work=$(mktemp -d)
registry=
trap '[ -z "$registry" ] || kill "$registry"; rm -rf "$work"' EXIT
export GOTOOLCHAIN=auto COSIGN_PASSWORD=throw-away VERSION=${VERSION:-v0.0.0-dry}
[ -n "${COSIGN:-}" ] || [ -x "$bin/cosign" ] || make --no-print-directory cosign
export COSIGN=${COSIGN:-$bin/cosign}
for key in ours others; do
  "$COSIGN" generate-key-pair --output-key-prefix "$work/$key" 2>/dev/null
done
export COSIGN_KEY=$work/ours.key

dist=$work/dist
if [ -n "${DIST:-}" ]; then
  cp -a "$DIST" "$dist"
  . hack/release/cosign.sh
  check_cosign
  sign_release "$dist"
else
  DIST=$dist hack/release.sh
fi

refused() { # WHAT COMMAND...
  if "${@:2}" >"$work/out" 2>&1; then
    echo "release-dry-run: $1 is not refused" >&2
    exit 1
  fi
  echo "    refused: $1"
}
verify_blob() { # KEY FILE
  "$COSIGN" verify-blob --key "$1" --insecure-ignore-tlog --bundle "$2.sigstore.json" "$2" >/dev/null 2>&1
}
verify_provenance() { # KEY FILE
  "$COSIGN" verify-blob-attestation --key "$1" --insecure-ignore-tlog --type slsaprovenance1 \
    --bundle "$dist/provenance.intoto.json.sigstore.json" "$2" >/dev/null 2>&1
}

echo "==> the files of a release"
chart=$(ls "$dist"/transformersquared-*.tgz)
version=$(basename "${chart#"$dist/transformersquared-"}" .tgz)
version=v$version
for file in "$dist/SHA256SUMS" "$chart"; do
  verify_blob "$work/ours.pub" "$file"
  refused "$(basename "$file") by another key" verify_blob "$work/others.pub" "$file"
done
(cd "$dist" && sha256sum --quiet --check SHA256SUMS)
files=0
while read -r _ file; do
  verify_provenance "$work/ours.pub" "$dist/$file"
  files=$((files + 1))
done <"$dist/SHA256SUMS"
echo "    the provenance is of each of $files files"
refused "the provenance by another key" verify_provenance "$work/others.pub" "$chart"
cp "$chart" "$work/changed.tgz"
echo >>"$work/changed.tgz"
refused "the provenance of a chart that is changed" verify_provenance "$work/ours.pub" "$work/changed.tgz"
cp "$chart.sigstore.json" "$work/changed.tgz.sigstore.json"
refused "a chart that is changed" verify_blob "$work/ours.pub" "$work/changed.tgz"

echo "==> a registry"
go -C hack/tools build -o "$work/crane" github.com/google/go-containerregistry/cmd/crane
mkdir "$work/blobs"
coproc serving { exec "$work/crane" registry serve --address 127.0.0.1:0 --disk "$work/blobs" 2>&1; }
registry=$serving_PID
address=
while [ -z "$address" ] && read -r line; do
  if [[ $line == *"serving on port "* ]]; then address=127.0.0.1:${line##* }; fi
done <&"${serving[0]}"
# Nobody else reads what it says of each request.
cat <&"${serving[0]}" >/dev/null &
REGISTRY_INSECURE=yes hack/release-push.sh "$dist" "$address/t2"

verify() { # KEY REFERENCE
  "$COSIGN" verify --key "$1" --insecure-ignore-tlog --allow-http-registry "$2" >/dev/null 2>&1
}
attested() { # KEY REFERENCE
  "$COSIGN" verify-attestation --key "$1" --insecure-ignore-tlog --type slsaprovenance1 --allow-http-registry "$2" >/dev/null 2>&1
}
images=()
while read -r named; do
  name=${named%%@*}
  images+=("$address/t2/${name##*/}@${named#*@}")
done <"$dist/images/digests.txt"
charts=$address/t2/charts/transformersquared:${version#v}
for reference in "${images[@]}" "$charts"; do
  verify "$work/ours.pub" "$reference"
  attested "$work/ours.pub" "$reference"
  refused "$reference by another key" verify "$work/others.pub" "$reference"
  refused "the provenance of $reference by another key" attested "$work/others.pub" "$reference"
done

echo "==> the programs of each architecture, from the images in the registry"
read -ra arches <<<"${RELEASE_ARCHES:-amd64 arm64}"
not_started=
for arch in "${arches[@]}"; do
  # What executes programs for it; nothing where this machine does.
  emulator=()
  if [ "$arch" != "$(go env GOHOSTARCH)" ]; then
    case $arch in amd64) emulator=(qemu-x86_64-static) ;; arm64) emulator=(qemu-aarch64-static) ;; *) emulator=("qemu-$arch-static") ;; esac
    if ! command -v "${emulator[0]}" >/dev/null; then
      echo "    linux/$arch: NOT STARTED: there is no ${emulator[0]} here (Debian's qemu-user-static, which make setup installs)" >&2
      not_started+=" linux/$arch"
      continue
    fi
  fi
  mkdir "$work/$arch"
  for program in manager t2; do
    reference=$(printf '%s\n' "${images[@]}" | grep "/$program@")
    entry=$("$work/crane" config --insecure --platform "linux/$arch" "$reference" | sed -n 's/.*"Entrypoint":\["\([^"]*\)".*/\1/p')
    if [ "$entry" != "/$program" ]; then
      echo "release-dry-run: the image $program for $arch begins with \"$entry\", and not /$program" >&2
      exit 1
    fi
    "$work/crane" export --insecure --platform "linux/$arch" "$reference" - | tar -x -C "$work/$arch" "$program"
  done
  says=$("${emulator[@]}" "$work/$arch/t2" --version)
  if [[ $says != *" $version" ]]; then
    echo "release-dry-run: t2 for $arch says that it is \"$says\", and not $version" >&2
    exit 1
  fi
  "${emulator[@]}" "$work/$arch/manager" -h >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
  grep -q -e -runtime-image "$work/out"
  plugin=$dist/kubectl-t2-$version-linux-$arch.tar.gz
  if [ -f "$plugin" ]; then
    tar -x -C "$work/$arch" -f "$plugin" kubectl-t2
    says+="; $("${emulator[@]}" "$work/$arch/kubectl-t2" --version)"
  fi
  echo "    linux/$arch: $says; the manager says what its flags are"
  echo "    linux/$arch: fetched, decomposed, trained and answered: $(hack/release/works.sh "$work/$arch/data" "${emulator[@]}" "$work/$arch/t2")"
done
echo "==> $files files, ${#images[@]} images and the chart are signed, and what is not ours is refused${not_started:+; NOT STARTED:$not_started}"
