#!/usr/bin/env bash
#
# Train on several machines over plain SSH, one launcher on each:
#
#   scripts/ssh_launch.sh "host1 host2" recipes/qwen2.5-72b/teacher.yaml \
#     --battles battles.parquet --fold 0 --output_dir runs/qwen2.5-72b/teacher/fold-0
#
# The first host is the main one; the others must reach it by that name. This folder, with its environment and the
# output in it, must be there under the same path on all of them: share it. Each line is told with its host. Where one
# host fails, the others are ended and its status is ours; Ctrl-C ends all. The same command goes on from the last
# checkpoint.
#
# From the environment: GPUS (8) on each host, PORT (29500) on the first, ACCELERATE_CONFIG
# (recipes/accelerate/multinode.yaml), SSH (ssh that asks for no password and notices a dead line). NCCL_* and GLOO_*
# are passed on.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: scripts/ssh_launch.sh \"HOST1 HOST2 ...\" RECIPE [--key value ...]" >&2
    exit 2
fi
read -ra hosts <<<"$1"
shift
if [ ${#hosts[@]} -eq 0 ]; then
    echo "ssh_launch.sh: no host is named." >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
read -ra ssh <<<"${SSH:-ssh -o BatchMode=yes -o ServerAliveInterval=15}"
# by its full path: a shell that SSH starts has not this one's PATH
accelerate=$(PATH=$PATH:$root/.venv/bin command -v accelerate) || {
    echo "ssh_launch.sh: no accelerate on the PATH nor in .venv; \`make setup\` installs it." >&2
    exit 2
}

passed_on=()
for name in "${!NCCL_@}" "${!GLOO_@}"; do
    passed_on+=("$name=${!name}")
done
launch=(
    "$accelerate" launch --config_file "${ACCELERATE_CONFIG:-$root/recipes/accelerate/multinode.yaml}"
    --num_machines ${#hosts[@]} --num_processes $((${#hosts[@]} * ${GPUS:-8}))
    --main_process_ip "${hosts[0]}" --main_process_port "${PORT:-29500}"
)

# What runs on a host: the launcher, ended when standard input ends. That is when this script does, however it does, or
# the line is cut: killing a local ssh would leave everything running on the other side.
# shellcheck disable=SC2016  # expanded there, not here
on_host='cd "$1" || exit; shift; exec 3<&0; "$@" </dev/null 3<&- & launched=$!; '
# shellcheck disable=SC2016
on_host+='{ read -r _; kill "$launched"; } <&3 & watch=$!; '
# shellcheck disable=SC2016
on_host+='wait "$launched"; status=$?; kill "$watch" 2>/dev/null; exit "$status"'

run_on() {  # rank, host, settings...
    local rank=$1 host=$2
    shift 2
    trap '' INT  # a terminal sends it to all; the host is to end in order, and to be heard until then
    local words=(bash -c "$on_host" node "$PWD" env "${passed_on[@]}" "${launch[@]}" --machine_rank "$rank")
    words+=("$root/scripts/train.py" --config "$@")
    "${ssh[@]}" "$host" "$(printf '%q ' "${words[@]}")" 2>&1 | sed -u "s/^/[$host] /"
}

# A pipe that nobody writes to: it ends when `held` is closed, which only this shell has open for writing.
pipe=$(mktemp -u)
mkfifo -m 600 "$pipe"
exec {held}<>"$pipe" {end}<"$pipe"
rm "$pipe"
finish() {
    trap '' INT TERM
    exec {held}>&-
    wait
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for rank in "${!hosts[@]}"; do
    run_on "$rank" "${hosts[rank]}" "$@" <&"$end" {end}<&- {held}>&- &
done
for _ in "${hosts[@]}"; do
    status=0
    wait -n || status=$?
    if [ "$status" -ne 0 ]; then
        echo "ssh_launch.sh: a host failed with status $status; the others are ended." >&2
        exit "$status"
    fi
done
