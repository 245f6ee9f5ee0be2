#!/usr/bin/env bash
# Makes the model that wsipipe ships, in some two hours on a CPU:
#
#     bash workflows/default_model.sh FOLDER nuclei.safetensors
#
# What FOLDER holds is said in default_model.toml. Started again after an interruption, it goes on where it was.
set -euo pipefail
usage="usage: default_model.sh FOLDER MODEL.safetensors"
data=${1:?$usage} model=${2:?$usage}
here=$(dirname "${BASH_SOURCE[0]}")
first=${model%.safetensors}-first.safetensors

step() {  # step CONFIGURATION MODEL [OPTION ...]
    local resume=()
    [[ -e $2 ]] && return
    [[ -e $2.training/checkpoint.safetensors ]] && resume=(--resume)
    wsipipe train "$here/$1" -o "$2" --data "$data" "${@:3}" "${resume[@]}"
}

step default_model.toml "$first"
step default_model_second.toml "$model" --from "$first"
