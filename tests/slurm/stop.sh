#!/usr/bin/env bash
# End the Slurm that start.sh started in FOLDER, and its jobs; the logs stay.
set -uo pipefail
folder=$(realpath -m "${1:?usage: stop.sh FOLDER}")

SLURM_CONF=$folder/slurm.conf scancel --quiet --full --partition=test 2>/dev/null
for name in slurmd slurmctld munged; do
    pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
done
