#!/usr/bin/env bash
# A sweep of 24 runs on a real Slurm of one node on loopback; see prove.py for what is checked.
#
#   apt-get install slurm-wlm munge                 # once, as root
#   make sweep CONFIG=notebooks/sweeps/norms.yaml   # once, makes the two environments
#   tests/slurm/run.sh                              # as root; everything it starts, it stops
#
# PYTHON and SNAKEMAKE name the two interpreters' programs if they are elsewhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
snakemake=${SNAKEMAKE:-$root/.venv-sweep/bin/snakemake}
work=$(mktemp -d /tmp/slurm-loopback.XXXXXX)
conf=/etc/slurm/slurm.conf # jobs look for it there, whatever the submitting shell exports
if [ -e "$conf" ]; then
  echo "$conf exists: this machine has a Slurm of its own" >&2
  exit 1
fi
started=()
stop() {
  rm -f "$conf"
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  echo "logs: $work"
}
trap stop EXIT
wait_for() { for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 1; done; echo "no $*"; exit 1; }

mkdir -p "$work"/{munge,state,spool}
chmod 755 "$work"
(umask 077 && head -c 1024 /dev/urandom >"$work/munge/key")
chown -R munge: "$work/munge"
mkdir -p "$(dirname "$conf")"
cat >"$conf" <<EOF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
ReturnToService=2
MinJobAge=900
KillWait=5
MessageTimeout=60
SlurmdTimeout=900
UnkillableStepTimeout=300
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
runuser -u munge -- munged --foreground --force --key-file="$work/munge/key" \
  --socket="$work/munge/socket" --pid-file="$work/munge/pid" --log-file="$work/munge/log" \
  --seed-file="$work/munge/seed" &
started+=($!)
wait_for test -S "$work/munge/socket"
slurmctld -D &
started+=($!)
slurmd -D &
started+=($!)
wait_for sh -c 'sinfo -h -o %T | grep -q idle'
sinfo
PATH=$PATH:$(dirname "$snakemake") "$python" "$here/prove.py" "$work"
