"""Which process of a cluster's job this is, read from the variables that the cluster sets."""

from collections.abc import Mapping
from typing import NamedTuple

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


class Place(NamedTuple):
    """A process's place in a job, as the cluster tells it.

    Attributes:
        cluster: its name.
        number: of the process; the first one is 0.
        processes: how many there are.
        lacks: the variables without which JAX does not recognize the cluster by itself.
    """

    cluster: str
    number: str
    processes: str
    lacks: tuple[str, ...] = ()


def places(environ: Mapping[str, str]) -> list[Place]:
    """Returns this process's place in each cluster that the environment tells of: mostly none.

    A Cloud TPU that is no part of Kubernetes tells nothing in the environment; JAX asks its server.

    Args:
        environ: `os.environ`.
    """
    found = []
    for name, (number, count, needed) in VARIABLES.items():
        if number in environ and count in environ:
            lacks = tuple(variable for variable in needed if variable not in environ)
            found.append(Place(name, environ[number], environ[count], lacks))
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if workers is not None and "TPU_WORKER_ID" in environ:
        count = str(len(workers.split(",")))
        found.append(Place("Cloud TPU", environ["TPU_WORKER_ID"], count))
    return found
