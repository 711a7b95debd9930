#!/usr/bin/env bash
# Makes what `make e2e-upgrade` upgrades from: the images manager and t2 of a
# commit of this repository's history, with the tag "before", and its config,
# which asks for them. What was made for a commit is kept, and not made again.
#
#   hack/upgrade-from.sh COMMIT FOLDER T2CLUSTER
#
# FOLDER then has manager.tar, t2.tar and config.
set -euo pipefail

if [ $# -ne 3 ]; then
  echo "usage: $0 COMMIT FOLDER T2CLUSTER" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
commit=$1 folder=$2 t2cluster=$3

fail() {
  echo "upgrade-from: $*" >&2
  exit 1
}
git rev-parse --git-dir >/dev/null 2>&1 ||
  fail "this is no checkout of the repository, whose history has the version to upgrade from: clone it with git"
if ! full=$(git rev-parse --verify --quiet "$commit^{commit}"); then
  if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
    fail "commit $commit is not in this shallow clone: run git fetch --unshallow, or name a later one by UPGRADE_FROM"
  fi
  fail "commit $commit is not in this history: fetch the branch that has it, or name another one by UPGRADE_FROM"
fi
if [ "$(cat "$folder/commit" 2>/dev/null || true)" = "$full" ]; then
  exit 0
fi

rm -rf "$folder"
mkdir -p "$folder/source"
trap 'rm -rf "$folder/source"' EXIT
git archive "$full" | tar -x -C "$folder/source"
# As `make build` of that commit did. Its folder lies in another commit's checkout,
# whose name must not be written into the programs.
export CGO_ENABLED=0
build() {
  hack/alive.sh "$1 of ${full:0:12}: building" "seconds, the first time 3 minutes" \
    go -C "$folder/source" build -buildvcs=false -trimpath -ldflags '-s -w' -o "$folder/source/bin/$2" "$3"
  "$t2cluster" image --out "$folder/$2.tar" --name "transformersquared.dev/$2:before" \
    --add "$folder/source/bin/$2:/$2" --entrypoint "/$2"
}
build "the operator" manager .
build "the runtime" t2 ./runtime
mv "$folder/source/config" "$folder/config"
sed -i -E 's#(transformersquared\.dev/(manager|t2|t2-cuda|judge)):dev#\1:before#' "$folder/config/manager/manager.yaml"
echo "$full" >"$folder/commit"
