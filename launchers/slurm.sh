#!/bin/bash
# Trains on the machines of a Slurm job. All arguments go to `mnist-jax train`:
#     sbatch launchers/slurm.sh --config configs/default.py --workdir /shared/runs/first
# All machines must see the --workdir and the environment that mnist-jax is installed in.
#
# Edit the machines, the GPUs of each, and as many tasks: JAX gives a task the GPU of its local rank.
# These values are for 16 H100 (target h100-16 of benchmarks/ahead.py).
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#
# Requeue after a preemption or a failed machine, and append to the same log.
#SBATCH --job-name=mnist-jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Before the time limit the tasks (not this script) get SIGTERM: they save together and exit with 143.
#SBATCH --signal=TERM@120

set -euo pipefail
[[ $# -gt 0 ]] || { echo "usage: sbatch ${0##*/} --config FILE --workdir DIR" >&2; exit 2; }

code=0
# The first task to end must not kill the others while they save. They detect a lost one themselves;
# --wait is for tasks that hang. srun reads --cpus-per-task only from its own command line.
srun --kill-on-bad-exit=0 --wait=90 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    mnist-jax train "$@" || code=$?

# 143: stopped and saved; 5: a peer was lost; 137: killed. The same command resumes. The limit is for
# jobs that fail each time, out of memory or disk space.
if [[ " 143 5 137 " == *" $code "* ]] && ((${SLURM_RESTART_COUNT:-0} < 100)); then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script
fi
exit "$code"
