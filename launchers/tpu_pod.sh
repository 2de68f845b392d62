#!/usr/bin/env bash
# Trains on all machines of a Cloud TPU slice. Arguments after the zone go to `mnist-jax train`:
#     launchers/tpu_pod.sh NAME ZONE --config configs/default.py --workdir /mnt/shared/runs/first
# To create a slice of 256 chips (target v5e-256 of benchmarks/ahead.py):
#     gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-256 \
#         --version=v2-alpha-tpuv5-lite
# Rerun the same line to resume. To stop it with a save:
#     gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='pkill -f "[m]nist-jax train"'
set -euo pipefail
[[ $# -gt 2 ]] || { echo "usage: ${0##*/} NAME ZONE --config FILE --workdir DIR" >&2; exit 2; }
name=$1 zone=$2
shift 2

# Edit: the NFS export (such as a Filestore instance) that all machines mount at /mnt/shared, for the
# --workdir; mnist-jax cannot write to gs:// itself.
share=10.0.0.2:/share

on_all_machines() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

# All machines install the same wheel of this checkout.
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
python3 -m pip wheel --quiet --no-deps --wheel-dir "$made" "$(dirname "$0")/.."
wheel=$(basename "$made"/mnist_jax-*.whl)
gcloud compute tpus tpu-vm scp "$made/$wheel" "$name:" --zone="$zone" --worker=all

# uv installs Python 3.12, since the machines' own may be too old. Every step can be repeated.
on_all_machines "set -e
mountpoint -q /mnt/shared || {
    sudo apt-get install -qq nfs-common; sudo mkdir -p /mnt/shared; sudo mount -o hard $share /mnt/shared; }
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/mnist-jax
~/.local/bin/uv pip install --quiet --python ~/mnist-jax --reinstall-package mnist_jax 'jax[tpu]' ~/$wheel"

# %q quotes each argument for the machines' shells.
on_all_machines "exec ~/mnist-jax/bin/mnist-jax train $(printf '%q ' "$@")"
