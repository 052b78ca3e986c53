#!/bin/bash
# Claim: the scripts of `stin-pipe job slurm` run the whole chain on a real Slurm, and a job that is preempted in the
# middle of extraction and one that is requeued in the middle of training end with the bytes of an undisturbed run.
#
# By hand, as root, on a Debian machine without Slurm: benchmarks/cluster/slurm.sh [VIDEOS LISTS]
# It installs slurm-wlm and munge, makes a cluster of one controller and two nodes on this machine, and removes all of
# it at the end. VIDEOS and LISTS are a folder of classes and its split lists in UCF101's style; by default EgoGestAR's
# in $STIN_SHARED_DATA. Prints one JSON object as its last line.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
data=${STIN_SHARED_DATA:-$root/../shared/data}
videos=$(realpath "${1:-$data/egogestar/videos}")
lists=$(realpath "${2:-$data/egogestar/lists}")
bin=$root/.venv/bin
work=$(mktemp -d /tmp/stin-slurm-XXXXXX)
export SLURM_CONF=$work/slurm.conf OMP_NUM_THREADS=1
packages=(slurm-wlm munge)
started=()
before=$(dpkg-query -W -f '${Package}\n' | sort)

remove_all() {
  set +e
  scancel --user=root 2> /dev/null
  for _ in {1..45}; do [[ -z $(squeue -h 2> /dev/null) ]] && break; sleep 1; done  # slurmd ends what it started
  for pid in "${started[@]}"; do kill "$pid" 2> /dev/null; done
  sleep 3
  for pid in "${started[@]}"; do kill -9 "$pid" 2> /dev/null; done
  local new
  new=$(comm -13 <(echo "$before") <(dpkg-query -W -f '${Package}\n' | sort))
  if [[ -n $new && -z ${KEEP_SLURM:-} ]]; then
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $new > "$work/purge.log" 2>&1
    rm -rf /etc/slurm /etc/munge /var/lib/munge /var/log/munge /run/munge /var/spool/slurm /var/log/slurm
  fi
  [[ -n ${KEEP:-} ]] || rm -rf "$work"
}
trap remove_all EXIT
say() { echo "$(date +%T) $*" >&2; }

[[ $(id -u) == 0 ]] || { echo "run it as root: it installs packages and starts daemons" >&2; exit 1; }
[[ -d $videos && -d $lists ]] || { echo "no videos at $videos or no lists at $lists" >&2; exit 1; }

say "1. Slurm: one controller, two nodes"
command -v slurmctld > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > "$work/install.log" 2>&1
}
mkdir -p /run/munge && chown munge: /run/munge && chmod 755 /run/munge
runuser -u munge -- munged --foreground > "$work/munged.log" 2>&1 & started+=($!)
host=$(hostname -s)
mkdir -p "$work"/{state,c1,c2}
cat > "$SLURM_CONF" <<CONF
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
SlurmctldPort=16817
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/%n
SlurmdPidFile=$work/%n.pid
SlurmdLogFile=$work/%n.log
SlurmctldPidFile=$work/slurmctld.pid
SlurmctldLogFile=$work/slurmctld.log
NodeName=c1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=c2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=work Nodes=c1,c2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=c1,c2 Default=NO MaxTime=INFINITE State=UP PriorityTier=10
CONF
slurmctld -D > /dev/null 2>&1 & started+=($!)
sleep 2
for node in c1 c2; do slurmd -D -N "$node" > /dev/null 2>&1 & started+=($!); done
for _ in {1..60}; do [[ $(sinfo -h -t idle -o %D 2> /dev/null) == 2 ]] && break; sleep 1; done
sinfo >&2

say "2. an undisturbed run, without Slurm"
begun=$SECONDS
cat > "$work/run.toml" <<TOML
run = "$work/runs/jobs of é"
[extract]
videos = "$videos"
splits = "$lists"
classes = ["up", "down", "left"]
limit = 21
short_side = 48
[train]
recipe = "small"
no_flip = true
epochs = 60
segments = 2
batch_size = 8
loader_workers = 0
[fuse-eval]
segments = 2
crops = "1"
loader_workers = 0
TOML
cd "$work"
STIN_PIPE_EXTRACT_RUNNER=local "$bin/stin-pipe" run --config run.toml --run runs/calm --json > calm.json 2> calm.log \
  || { tail -n 5 calm.log >&2; exit 1; }

calm_s=$((SECONDS - begun))
say "3. the same as jobs"
"$bin/stin-pipe" job slurm --config run.toml --out "$work/scripts of é" --nodes 2 --cpus-per-task 1 \
  --partition work --setup "export OMP_NUM_THREADS=1" --submit --json > job.json
read -r extract train fuse < <("$bin/python" -c 'import json; j = json.load(open("job.json"))["jobs"]; print(j["extract"], j["train"], j["fuse-eval"])')
run="$work/runs/jobs of é"
marks() { find "$run/extract/shards" -name '[0-9]*.json' 2> /dev/null | wc -l; }
wait_for() { for _ in {1..3000}; do eval "$1" && return; sleep 0.1; done; echo "never: $1" >&2; exit 1; }
state() { scontrol show job "$1" | tr ' ' '\n' | sed -n 's/^JobState=//p' | sort | uniq -c | xargs; }
restarts() { scontrol show job "$1" | tr ' ' '\n' | sed -n 's/^Restarts=//p' | sort -n | tail -1; }

wait_for '(( $(marks) >= 3 ))'
at_preemption=$(marks)
say "   extraction has $at_preemption shards: an urgent job takes both nodes"
sbatch --partition=urgent --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --output=/dev/null --wrap 'srun sleep 3' >&2
wait_for '(( $(restarts $extract) >= 1 ))'
say "   preempted: $(state "$extract"), $(marks) shards"

task=${train}_1
log="$work/scripts of é/train-$train-1.log"
wait_for 'grep -qs "train temporal: " "$log"'  # a line of progress: it is in the middle
requeued_at=$(grep "train temporal: " "$log" | tail -n 1)
scontrol requeue "$task"
say "   training requeued at $requeued_at"
wait_for '[[ $(state '"$fuse"') == *COMPLETED* || $(state '"$fuse"') == *FAILED* || $(state '"$fuse"') == *CANCELLED* ]]'
say "   ended: extract $(state "$extract"), train $(state "$train"), fuse-eval $(state "$fuse")"

say "4. the chain in one job, with a time limit that is too short for it"
limited=$work/runs/limited
warn=$((120 - calm_s * 6 / 10))  # the signal comes when a good half is done
warn=$((warn < 20 ? 20 : warn))
"$bin/stin-pipe" job slurm --config run.toml --run "$limited" --out "$work/limited" --cpus-per-task 2 --time 2 --warn "$warn" \
  --partition work --setup "export OMP_NUM_THREADS=1" > /dev/null
chain=$(sbatch --parsable "$work/limited/chain.sh")
wait_for '[[ $(state '"$chain"') == *COMPLETED* || $(state '"$chain"') == *FAILED* || $(state '"$chain"') == *TIMEOUT* ]]'
say "   ended: $(state "$chain") after $(restarts "$chain") restarts"

say "5. compare"
"$bin/python" - "$work/runs/calm" "$run" "$limited" "$(restarts "$chain")" "$(restarts "$extract")" "$(restarts "$task")" "$at_preemption" "$requeued_at" \
  "$(grep -o "resumed after step [0-9]*" "$log")" <<'PY'
import json, sys
from pathlib import Path

calm, jobs, limited = map(Path, sys.argv[1:4])


def digests(run):
    manifest = json.loads((run / "extract/manifest.json").read_text())
    return {video["id"]: video["digest"] for video in manifest["videos"]}


def compared(run):
    weights = [f"train-{stream}/split1/model.safetensors" for stream in ("spatial", "temporal")]
    fused = [json.loads((path / "fuse-eval/split1/metrics.json").read_text())["fused"] for path in (calm, run)]
    return {
        "equal_digests": digests(calm) == digests(run),
        "equal_weights": all((calm / name).read_bytes() == (run / name).read_bytes() for name in weights),
        "equal_metrics": fused[0] == fused[1],
    }


value = {
    "videos": len(digests(calm)),
    "preempted": {
        "shards_at_preemption": int(sys.argv[7]),
        "restarts_of_extract": int(sys.argv[5]),
        "training_requeued_at": sys.argv[8],
        "resumed": sys.argv[9],
        "restarts_of_training": int(sys.argv[6]),
        **compared(jobs),
    },
    "time_limit": {"restarts": int(sys.argv[4]), **compared(limited)},
}
parts = (value["preempted"], value["time_limit"])
ok = all(part[name] for part in parts for name in part if name.startswith(("equal", "restarts")))
print(json.dumps(value | {"ok": ok}))
sys.exit(not ok)
PY
