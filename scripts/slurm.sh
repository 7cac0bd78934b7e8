#!/usr/bin/env bash
#
# Train on several nodes under Slurm, one launcher on each; from the root of the checkout:
#
#   sbatch scripts/slurm.sh recipes/qwen2.5-72b/teacher.yaml \
#     --battles battles.parquet --fold 0 --output_dir runs/qwen2.5-72b/teacher/fold-0
#
# Other sizes by sbatch's own flags: `sbatch --nodes 4 --gpus-per-node 4 --time 8:00:00 scripts/slurm.sh ...`. A job that
# is preempted, or loses a node, is queued again and goes on from its last checkpoint; one that ran out of time does so
# when it is submitted again. The folder must be one that the nodes share.
#
# From the environment: GPUS on each node (Slurm's count), PORT on the first (one of the job's own), ACCELERATE_CONFIG
# (recipes/accelerate/multinode.yaml).
#
#SBATCH --job-name=sft-judge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch scripts/slurm.sh RECIPE [--key value ...]" >&2
    exit 2
fi
export PATH=$PATH:$PWD/.venv/bin
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
launch=(
    --config_file "${ACCELERATE_CONFIG:-recipes/accelerate/multinode.yaml}"
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * ${GPUS:-${SLURM_GPUS_ON_NODE:-8}}))
    --main_process_ip "${hosts%%$'\n'*}"
    --main_process_port "${PORT:-$((20000 + SLURM_JOB_ID % 10000))}"  # two jobs may meet on a node
)

# One task a node, with all of its CPUs, which a step does not get by itself. A node's own number is known there alone.
# shellcheck disable=SC2016  # expanded there, not here
exec srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=1 \
    --label bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' node \
    "${launch[@]}" scripts/train.py --config "$@"
