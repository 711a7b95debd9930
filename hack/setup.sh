#!/usr/bin/env bash
# Installs the Debian packages named as arguments where they are missing, and
# says what it does. Safe to run again; does nothing when all are there.
set -euo pipefail

if ! command -v go >/dev/null; then
  echo "setup: Go 1.26 or newer must be installed and on PATH" >&2
  exit 1
fi
missing=()
for package in "$@"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "==> Debian packages: all of $* are installed"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: these Debian packages are missing: ${missing[*]}. Run as root, or: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
alive=$(dirname "$0")/alive.sh
"$alive" "Debian's list of packages: reading it" "10 s" apt-get update -qq
# shellcheck disable=SC2016 # The inner shell expands it.
"$alive" "Debian packages: installing ${missing[*]}" "under a minute" \
  bash -c 'apt-get install -y -qq --no-install-recommends "$@" >/dev/null' install "${missing[@]}"
