#!/usr/bin/env bash
# A Slurm of one node on this machine (Debian, as root), in FOLDER only; prints the path of its slurm.conf:
#
#     export SLURM_CONF=$(tests/slurm/start.sh FOLDER)
#     ...
#     tests/slurm/stop.sh FOLDER
set -euo pipefail
folder=$(realpath -m "${1:?usage: start.sh FOLDER}")
here=$(dirname "$(realpath "$0")")
trap 'echo "start.sh: no Slurm; see the logs in $folder" >&2; "$here/stop.sh" "$folder"' ERR

if ! { command -v munged && command -v slurmctld && command -v slurmd; } >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -qq --no-install-recommends munge slurm-wlm >&2
fi

mkdir -p "$folder/state" "$folder/spool"
sed "s|@folder@|$folder|" "$here/slurm.conf.in" >"$folder/slurm.conf"
(umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
export SLURM_CONF=$folder/slurm.conf

# --force: the folder may be anybody's, such as /tmp; this key opens nothing but this Slurm.
munged --force --num-threads=1 --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" >&2
slurmctld -c >&2
slurmd -N localhost >&2
for _ in $(seq 100); do
    if [ "$(sinfo --noheader --format=%T 2>&1)" = idle ]; then
        echo "$SLURM_CONF"
        exit
    fi
    sleep 0.2
done
false
