#!/usr/bin/env bash
# Trains on all machines of a Cloud TPU slice. What follows the zone goes to `mnist-jax train`:
#     launchers/tpu_pod.sh NAME ZONE --config configs/default.py --workdir /mnt/shared/runs/first
# A slice of 256 chips, for which benchmarks/ahead.py compiles the program (its target v5e-256), by
#     gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-256 \
#         --version=v2-alpha-tpuv5-lite
# The same line again goes on. To stop it with a save:
#     gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='pkill -f "[m]nist-jax train"'
set -euo pipefail
[[ $# -gt 2 ]] || { echo "usage: ${0##*/} NAME ZONE --config FILE --workdir DIR" >&2; exit 2; }
name=$1 zone=$2
shift 2

# To change: what all machines mount at /mnt/shared, such as a Filestore instance (NFS). The directory
# of --workdir lies there; mnist-jax cannot write to gs:// itself.
share=10.0.0.2:/share

on_all_machines() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

# This checkout as one file, so that all machines run the same.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
python3 -m pip wheel --quiet --no-deps --wheel-dir "$made" "$(dirname "$0")/.."
wheel=$(basename "$made"/mnist_jax-*.whl)
gcloud compute tpus tpu-vm scp "$made/$wheel" "$name:" --zone="$zone" --worker=all

# uv brings a Python where the machines have one that is too old. Every step can be done again.
on_all_machines "set -e
mountpoint -q /mnt/shared || {
    sudo apt-get install -qq nfs-common; sudo mkdir -p /mnt/shared; sudo mount -o hard $share /mnt/shared; }
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/mnist-jax
~/.local/bin/uv pip install --quiet --python ~/mnist-jax --reinstall-package mnist_jax 'jax[tpu]' ~/$wheel"

# %q: each argument arrives on the machines as it was given here.
on_all_machines "exec ~/mnist-jax/bin/mnist-jax train $(printf '%q ' "$@")"
