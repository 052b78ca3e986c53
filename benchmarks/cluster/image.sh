#!/bin/bash
# Claim: docker/Dockerfile.cpu builds, and in the image the demo passes as a user without rights, on a read-only root.
#
# By hand, as root, on a Debian machine without a container engine: benchmarks/cluster/image.sh [DEMO ARGUMENTS]
# It installs buildah and debootstrap, makes a small Debian as BASE, builds the real Dockerfile with chroot isolation
# (no engine, no kernel namespaces needed), runs doctor and demo inside, and removes all of it at the end.
# BUILDAH_ARGS holds further arguments of `buildah bud`, such as -v for package indexes and certificates of this
# network. About 10 GB of disk, without KEEP=1 only for the time of the run. Prints one JSON object as its last line.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /tmp/stin-image-XXXXXX)
before=$(dpkg-query -W -f '${Package}\n' | sort)
export BUILDAH_ISOLATION=chroot
store=(--root "$work/storage" --runroot "$work/run")

remove_all() {
  set +e
  for place in dev/shm dev proc tmp runs ""; do umount "$work/root/$place" 2> /dev/null; done
  buildah umount --all > /dev/null 2>&1
  umount "$work/storage/overlay" 2> /dev/null
  local new
  new=$(comm -13 <(echo "$before") <(dpkg-query -W -f '${Package}\n' | sort))
  # shellcheck disable=SC2086
  [[ -z $new ]] || DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $new > /dev/null 2>&1
  grep -q " $work/root" /proc/mounts && { echo "still mounted below $work/root; left there" >&2; return; }
  [[ -n ${KEEP:-} ]] || rm -rf --one-file-system "$work"
}
trap remove_all EXIT
say() { echo "$(date +%T) $*" >&2; }
buildah() { command buildah "${store[@]}" "$@"; }

[[ $(id -u) == 0 ]] || { echo "run it as root" >&2; exit 1; }
command -v buildah > /dev/null && command -v debootstrap > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap > "$work/install.log" 2>&1
}

say "1. a small Debian as BASE"
debootstrap --variant=minbase bookworm "$work/base" > "$work/debootstrap.log"
container=$(buildah from scratch)
buildah add -q "$container" "$work/base" / > /dev/null
buildah commit -q --rm "$container" base:trial > /dev/null
rm -rf "$work/base"

say "2. docker/Dockerfile.cpu"
started=$SECONDS
# shellcheck disable=SC2086
buildah bud ${BUILDAH_ARGS:-} --layers --build-arg BASE=localhost/base:trial -f "$root/docker/Dockerfile.cpu" \
  -t stin-pipe:cpu "$root" > "$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; exit 1; }
build_s=$((SECONDS - started))

say "3. run it: user 10001, read-only root, own /tmp, /dev/shm and /runs"
container=$(buildah from stin-pipe:cpu)
image=$(buildah mount "$container")
size=$(du -sm "$image" | cut -f1)
mkdir -p "$work/root" "$work/runs"
chown 10001:10001 "$work/runs"
mount --bind "$image" "$work/root" && mount -o remount,bind,ro "$work/root"
mount -t tmpfs -o mode=1777 tmpfs "$work/root/tmp"
mount --bind "$work/runs" "$work/root/runs"
mount -t proc proc "$work/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$work/root/dev"
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
  read -r name major minor <<< "$node"
  mknod -m 666 "$work/root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$work/root/dev/fd"
mkdir "$work/root/dev/shm"
mount -t tmpfs -o size=4g,mode=1777 tmpfs "$work/root/dev/shm"
mapfile -t environment < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | grep =)
inside() {
  env -i "${environment[@]}" chroot --userspec=10001:10001 "$work/root" /bin/sh -c 'cd /runs && exec "$@"' sh "$@"
}
inside sh -c 'id >&2; ! touch /opt/x 2> /dev/null && ! touch /etc/x 2> /dev/null'
inside stin-pipe doctor --folder /runs --json > "$work/doctor.json" 2> "$work/doctor.log" || true
cat "$work/doctor.log" >&2
started=$SECONDS
[[ -z ${ONLY_DOCTOR:-} ]] || { echo "{\"build_s\": $build_s, \"image_MiB\": $size}"; exit 0; }
inside stin-pipe demo --run /runs/demo --json "$@" > "$work/demo.json" 2> "$work/demo.log" \
  || { tail -n 20 "$work/demo.log" >&2; exit 1; }
tail -n 14 "$work/demo.log" >&2
python3 - "$work" "$build_s" "$size" "$((SECONDS - started))" <<'PY'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
doctor = json.loads((work / "doctor.json").read_text().splitlines()[-1])
demo = json.loads((work / "demo.json").read_text().splitlines()[-1])
value = {"build_s": int(sys.argv[2]), "image_MiB": int(sys.argv[3]), "demo_s": int(sys.argv[4]), "ready": doctor["ready"]}
value |= {name: demo[name] for name in ("spatial_plain", "spatial", "temporal", "fused")}
value["written_by"] = (work / "runs/demo/run.json").stat().st_uid
print(json.dumps(value | {"ok": doctor["ready"] and demo["fused"] > 0.9 and value["written_by"] == 10001}))
PY
