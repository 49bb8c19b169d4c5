#!/usr/bin/env bash
# Tests without a network: `tests/offline/run.sh PYTHON [pytest's arguments]`.
#
# They run in a network namespace that has nothing but a loopback (Linux). Where none can be made,
# sockets of the test process are blocked instead and the Hub's client is told to stay off line;
# what tests start in processes of their own is then not cut off.
set -euo pipefail
python=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
command=("$python" -m pytest -p network_off "$@")
for kind in -n -rn; do
  if unshare "$kind" true 2>/dev/null; then
    exec unshare "$kind" "$python" -c 'import os, sys, network_off
network_off.raise_loopback()
os.execvp(sys.argv[1], sys.argv[1:])' "${command[@]}"
  fi
done
echo "no network namespace: sockets are blocked instead" >&2
NETWORK_OFF_BLOCK=1 HF_HUB_OFFLINE=1 exec "${command[@]}"
