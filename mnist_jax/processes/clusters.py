"""This process's rank in a cluster's job, from environment variables."""

import re
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

from mnist_jax.machine.accelerator import hidden_by, present_accelerator

# Rank, number of processes, and the other variables by which JAX recognizes a cluster:
# https://github.com/jax-ml/jax/tree/main/jax/_src/clusters
SLURM = ("PROCID", "NTASKS", "JOB_ID", "STEP_NODELIST", "LOCALID")
VARIABLES = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"),
    "Slurm": tuple(f"SLURM_{name}" for name in SLURM),
}
TPU_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


class Job(NamedTuple):
    """This process's place in a cluster's job; ranks begin at 0."""

    cluster: str
    rank: int
    processes: int


def open_mpi_address(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the address of Open MPI 5's mpirun in version 4's variable, which JAX reads."""
    if mpirun := re.fullmatch(r"prterun-(.+)-(\d+)@\d+", environ.get("PMIX_NAMESPACE", "")):
        return {"OMPI_MCA_orte_hnp_uri": f"{int(mpirun[2]) << 12}.0;tcp://{mpirun[1]}:0"}
    return {}


def cluster_job(environ: Mapping[str, str]) -> Job | None:
    """Returns the job described by environment variables, if any.

    Open MPI comes first, because `mpirun` in a Slurm job starts its own processes.
    """
    environ = {**open_mpi_address(environ), **environ}
    for cluster, variables in VARIABLES.items():
        if {*variables} <= {*environ}:
            return Job(cluster, *(int(environ[variable]) for variable in variables[:2]))
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if workers is None or "TPU_WORKER_ID" not in environ:
        return None
    hosts = len(workers.split(","))  # per slice
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    index = int(environ.get("MEGASCALE_SLICE_ID") or 0)
    return Job("Cloud TPU", index * hosts + int(environ["TPU_WORKER_ID"]), slices * hosts)


def cluster_of_several(environ: Mapping[str, str]) -> str | None:
    """Returns the cluster that started several processes, if JAX can join them.

    A Cloud TPU outside Kubernetes sets no variables, but has a metadata server.
    """
    if job := cluster_job(environ):
        return job.cluster if job.processes > 1 else None
    elsewhere = {"COLAB_TPU_1VM", "TPU_SKIP_MDS_QUERY", "TPU_WORKER_ID"} & {*environ}
    if elsewhere or present_accelerator() != "tpu" or hidden_by("tpu"):
        return None
    url = f"http://{environ.get('GCE_METADATA_IP', 'metadata.google.internal')}/{TPU_METADATA}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return "Cloud TPU" if b"," in answer.read() else None
    except OSError:
        return None
