#!/bin/bash
# Trains on the machines that Slurm gives. Everything behind the name goes to `mnist-jax train`:
#     sbatch launchers/slurm.sh --config configs/default.py --workdir /shared/runs/first
# All machines must see the directory of --workdir, and the environment that mnist-jax is in.
#
# To change: the machines, the GPUs of each, and as many tasks: JAX gives a task the GPU of its number.
# As it stands: 16 H100, for which benchmarks/ahead.py compiles the program (its target h100-16).
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#
# Queue it again after preemption or when a machine fails, and go on in the same log.
#SBATCH --job-name=mnist-jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Before the time is up the tasks (not this script) get SIGTERM: they save together and end with 143.
#SBATCH --signal=TERM@120

set -euo pipefail
[[ $# -gt 0 ]] || { echo "usage: sbatch ${0##*/} --config FILE --workdir DIR" >&2; exit 2; }

code=0
# The first task that ends must not have the others killed while they save. They notice a lost one
# themselves; --wait is for what hangs. srun takes --cpus-per-task from nowhere but its own line.
srun --kill-on-bad-exit=0 --wait=90 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    mnist-jax train "$@" || code=$?

# 143: stopped and saved; 5: another process was lost; 137: this one was killed. The same command goes
# on. The limit is for what gets lost each time, by too little memory or a full disk.
if [[ " 143 5 137 " == *" $code "* ]] && ((${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script
fi
exit "$code"
