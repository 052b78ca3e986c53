#!/bin/bash
# Claim: the Dockerfiles build, the images run as a user without rights on a read-only root, and compose.yaml runs the demo.
#
# By hand, as root, on a Debian machine without a container engine: benchmarks/cluster/image.sh [cpu|cuda]
# It installs podman (an engine without a daemon), makes a small Debian as BASE, builds docker/Dockerfile.cpu or .cuda,
# asks doctor inside, and for cpu brings up the demo with docker/compose.yaml, stops it in the middle of a training,
# brings it up again to its end, and asks the image's health command meanwhile. All of it is removed at the end.
#   SUITE       Debian of BASE: bookworm (Python 3.11, the default), trixie (Python 3.13)
#   BUILD_ARGS  further arguments of `podman build`, such as -v for package indexes and certificates of this network
#   ONLY_DOCTOR 1 leaves the demo out; KEEP=1 keeps the folder
# About 10 GB of disk for cpu and 25 GB for cuda while it runs. Prints one JSON object as its last line.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
kind=${1:-cpu}
suite=${SUITE:-bookworm}
work=$(mktemp -d /tmp/stin-image-XXXXXX)
before=$(dpkg-query -W -f '${Package}\n' | sort)

remove_all() {
  set +e
  podman rm --all --force > /dev/null 2>&1
  [[ -n ${KEEP:-} ]] || podman rmi --all --force > /dev/null 2>&1
  umount "$work/storage/overlay" 2> /dev/null
  local new
  new=$(comm -13 <(echo "$before") <(dpkg-query -W -f '${Package}\n' | sort))
  # shellcheck disable=SC2086
  [[ -z $new || -n ${KEEP:-} ]] || DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $new > /dev/null 2>&1
  grep -q " $work" /proc/mounts && { echo "still mounted below $work; left there" >&2; return; }
  [[ -n ${KEEP:-} ]] || rm -rf --one-file-system "$work"
}
trap remove_all EXIT
say() { echo "$(date +%T) $*" >&2; }

[[ $(id -u) == 0 ]] || { echo "run it as root" >&2; exit 1; }
type podman runc debootstrap catatonit > /dev/null 2>&1 || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    podman buildah runc catatonit debootstrap > "$work/install.log" 2>&1
}
python3 -m venv "$work/tools" && "$work/tools/bin/pip" install -q podman-compose==1.6.0 2> "$work/tools.log"

# Limits below those of this shell can be set without CAP_SYS_RESOURCE; podman's own defaults are above them.
cat > "$work/containers.conf" << CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
cat > "$work/storage.conf" << CONF
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/run"
CONF
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf TMPDIR=$work

say "1. a small Debian ($suite) as BASE"
debootstrap --variant=minbase "$suite" "$work/base" > "$work/debootstrap.log"
tar -C "$work/base" -c . | podman import -q - base:trial > /dev/null
rm -rf "$work/base"

say "2. docker/Dockerfile.$kind"
started=$SECONDS
# shellcheck disable=SC2086
podman build ${BUILD_ARGS:-} --format docker --network host --build-arg BASE=localhost/base:trial \
  -f "$root/docker/Dockerfile.$kind" -t "stin-pipe:$kind" "$root" > "$work/build.log" 2>&1 \
  || { tail -n 30 "$work/build.log" >&2; exit 1; }
build_s=$((SECONDS - started))
size=$(($(podman image inspect --format '{{.Size}}' "stin-pipe:$kind") >> 20))

say "3. doctor in it: user 10001, read-only root, no network"
mkdir -p "$work/runs" && chown 10001:10001 "$work/runs"
inside=(podman run --rm --network none --read-only --tmpfs /tmp:mode=1777 --shm-size 4g --cap-drop ALL -v "$work/runs:/runs")
"${inside[@]}" --entrypoint sh "stin-pipe:$kind" -c \
  'id >&2; ! touch /opt/x 2> /dev/null && ! touch /etc/x 2> /dev/null' || { echo "the root can be written" >&2; exit 1; }
"${inside[@]}" "stin-pipe:$kind" doctor --folder /runs --json > "$work/doctor.json" 2> "$work/doctor.log" || true
cat "$work/doctor.log" >&2
python=$("${inside[@]}" --entrypoint python3 "stin-pipe:$kind" -c 'import platform; print(platform.python_version())')
[[ $kind == cpu && -z ${ONLY_DOCTOR:-} ]] || {
  ready=$(python3 -c 'import json, sys; print(json.dumps(json.loads(sys.stdin.read().splitlines()[-1])["ready"]))' < "$work/doctor.json")
  echo "{\"python\": \"$python\", \"build_s\": $build_s, \"image_MiB\": $size, \"ready\": $ready}"
  exit 0
}

say "4. docker compose up demo; stopped in its first training, then brought up again"
cat > "$work/here.yaml" << YAML
services:
  demo:
    network_mode: none  # this machine may have no bridge; the demo needs no network
    volumes: ["$work/runs:/runs"]
YAML
compose=("$work/tools/bin/podman-compose" --in-pod false -f "$root/docker/compose.yaml" -f "$work/here.yaml")
export AS_UID=10001 AS_GID=10001
started=$SECONDS
"${compose[@]}" up demo > "$work/demo-1.log" 2>&1 &
first=$!
until grep -q "step" "$work/demo-1.log"; do
  kill -0 $first 2> /dev/null || { tail -n 20 "$work/demo-1.log" >&2; exit 1; }
  sleep 1
done
container=$(podman ps -q --latest)
podman healthcheck run "$container" >&2 && health=true || health=false
podman stop -t 120 "$container" > /dev/null
wait $first || true
stopped=$(podman inspect --format '{{.State.ExitCode}}' "$container")
say "stopped with exit code $stopped"
tail -n 2 "$work/demo-1.log" >&2
"${compose[@]}" up demo > "$work/demo-2.log" 2>&1 || { tail -n 20 "$work/demo-2.log" >&2; exit 1; }
tail -n 14 "$work/demo-2.log" >&2
demo_s=$((SECONDS - started))
"${inside[@]}" "stin-pipe:$kind" demo --run /runs/demo --json > "$work/demo.json" 2> /dev/null
python3 - "$work" "$python" "$build_s" "$size" "$demo_s" "$stopped" "$health" <<'PY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
doctor = json.loads((work / "doctor.json").read_text().splitlines()[-1])
demo = json.loads((work / "demo.json").read_text().splitlines()[-1])
value = {"python": sys.argv[2], "build_s": int(sys.argv[3]), "image_MiB": int(sys.argv[4]), "demo_s": int(sys.argv[5])}
value |= {"ready": doctor["ready"], "exit_code_of_stop": int(sys.argv[6]), "healthy": sys.argv[7] == "true"}
value |= {name: demo[name] for name in ("spatial_plain", "spatial", "temporal", "fused")}
value["resumed"] = "resumed after step" in (work / "demo-2.log").read_text()
value["written_by"] = (work / "runs/demo/run.json").stat().st_uid
good = doctor["ready"] and value["healthy"] and value["resumed"] and value["exit_code_of_stop"] == 143
print(json.dumps(value | {"ok": good and demo["fused"] > 0.9 and value["written_by"] == 10001}))
PY
