"""Which process of a job this is: what the cluster tells it."""

import re
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from mnist_jax.machine.accelerator import hidden_by, present_accelerator

# The process's number, how many there are, and the other variables by which JAX recognizes it:
# https://github.com/jax-ml/jax/tree/main/jax/_src/clusters
VARIABLES = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_MCA_orte_hnp_uri",)),
    "Slurm": (
        "SLURM_PROCID",
        "SLURM_NTASKS",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID"),
    ),
}
TPU_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


class Place(NamedTuple):
    """A process's place in a job, as the cluster tells it.

    Attributes:
        cluster: its name.
        number: of the process; the first one is 0. "?" where only JAX asks for it.
        processes: how many there are.
        lacks: the variables without which JAX does not recognize the cluster by itself.
        arguments: for `jax.distributed.initialize`, where JAX does not find them by itself.
    """

    cluster: str
    number: str
    processes: str
    lacks: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = {}


def places(environ: Mapping[str, str]) -> list[Place]:
    """Returns this process's place in each cluster that the environment tells of: mostly none.

    Where there are several, the first counts: `mpirun` in a job of Slurm has its own processes.

    Args:
        environ: `os.environ`.
    """
    found = []
    for name, (number, count, needed) in VARIABLES.items():
        if number in environ and count in environ:
            lacks = tuple(variable for variable in needed if variable not in environ)
            found.append(Place(name, environ[number], environ[count], lacks))
    if found and found[0].cluster == "Open MPI" and found[0].lacks:
        found[0] = _open_mpi_5(environ) or found[0]
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if workers is not None and "TPU_WORKER_ID" in environ:
        hosts = len(workers.split(","))  # of a slice; there may be several
        first = int(environ.get("MEGASCALE_SLICE_ID") or 0) * hosts
        count = int(environ.get("MEGASCALE_NUM_SLICES") or 1) * hosts
        number = first + int(environ["TPU_WORKER_ID"])
        found.append(Place("Cloud TPU", str(number), str(count)))
    return found


def place_among_several(environ: Mapping[str, str]) -> Place | None:
    """Returns this process's place in a job of several processes that JAX can join, if any.

    Args:
        environ: `os.environ`. A Cloud TPU that is no part of Kubernetes tells nothing there; its
            metadata server is asked.
    """
    for place in places(environ):
        if place.processes != "1" and not place.lacks:
            return place
    workers = _tpu_workers(environ)
    return Place("Cloud TPU", "?", str(len(workers))) if len(workers) > 1 else None


def _open_mpi_5(environ: Mapping[str, str]) -> Place | None:
    """JAX knows Open MPI 4, whose mpirun told its address; that of version 5 tells its name.

    As with version 4, the first process has to be where mpirun runs.
    """
    mpirun = re.fullmatch(r"prterun-(.+)-(\d+)@\d+", environ.get("PMIX_NAMESPACE", ""))
    if not mpirun:
        return None
    number, count = environ["OMPI_COMM_WORLD_RANK"], environ["OMPI_COMM_WORLD_SIZE"]
    arguments = {
        "coordinator_address": f"{mpirun[1]}:{61440 + int(mpirun[2]) % 4096}",
        "num_processes": int(count),
        "process_id": int(number),
        "local_device_ids": int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")),
    }
    return Place("Open MPI", number, count, arguments=arguments)


def _tpu_workers(environ: Mapping[str, str]) -> list[str]:
    """The hosts of a slice of Cloud TPUs, as its metadata server has them."""
    elsewhere = {"COLAB_TPU_1VM", "TPU_SKIP_MDS_QUERY", "TPU_WORKER_ID"} & {*environ}
    if elsewhere or present_accelerator() != "tpu" or hidden_by("tpu"):
        return []
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/{TPU_METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode().split(",")
    except OSError:
        return []
