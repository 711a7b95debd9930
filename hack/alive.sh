#!/usr/bin/env bash
# Runs a command that may take long and be silent: says what it is and how long
# it usually takes, and every 15 seconds (or ALIVE_SECONDS) that it still runs.
#
#   hack/alive.sh WHAT USUALLY COMMAND [ARG...]
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 WHAT USUALLY COMMAND [ARG...]" >&2
  exit 2
fi
what=$1 usually=$2
shift 2
echo "==> $what (usually $usually)"
SECONDS=0
# It waits on a pipe that nobody writes to rather than for a sleep, which would
# outlive it and hold whatever it inherited.
(
  exec {never}<> <(:)
  while kill -0 $$ 2>/dev/null; do # until this script is gone, however it ended
    read -r -t "${ALIVE_SECONDS:-15}" -u "$never" || echo "    still $what (${SECONDS} s)"
  done
) &
ticker=$!
trap 'kill "$ticker" 2>/dev/null || true' EXIT
"$@"
