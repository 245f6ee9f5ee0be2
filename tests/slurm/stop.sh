#!/usr/bin/env bash
# End the Slurm that start.sh started in FOLDER, and its jobs; the logs stay.
set -uo pipefail
folder=$(realpath -m "${1:?usage: stop.sh FOLDER}")

export SLURM_CONF=$folder/slurm.conf
if [ -e "$folder/slurmctld.pid" ]; then
    scancel --quiet --partition=test
    for _ in $(seq 100); do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 0.1
    done
fi
for name in slurmd slurmctld munged; do
    pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
done
