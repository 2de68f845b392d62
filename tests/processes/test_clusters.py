"""The job described by a process's environment, for us and for JAX."""

import inspect
import io
import urllib.error
import urllib.request
from typing import Any

import pytest
from jax._src.clusters import OmpiCluster, SlurmCluster

from mnist_jax.processes.clusters import Job, cluster_job, cluster_of_several, open_mpi_address

SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}
SLURM |= {"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_LOCALID": "0"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
OPEN_MPI_4 = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1"}
OPEN_MPI_5 = {"PMIX_NAMESPACE": "prterun-node-1-4097@1"}
TPU = {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}


JOBS: list[tuple[dict[str, str], Job | None]] = [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # without srun
    (SLURM, Job("Slurm", 2, 8)),
    (OPEN_MPI, None),  # JAX does not recognize it, and there is nothing else to go by
    (OPEN_MPI | OPEN_MPI_4, Job("Open MPI", 1, 4)),
    (OPEN_MPI | OPEN_MPI_5, Job("Open MPI", 1, 4)),
    (SLURM | OPEN_MPI | OPEN_MPI_5, Job("Open MPI", 1, 4)),
    (TPU, Job("Cloud TPU", 3, 4)),
    (TPU | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, Job("Cloud TPU", 7, 8)),
]


@pytest.mark.parametrize(("environ", "job"), JOBS)
def test_the_environment_describes_the_job(environ, job):
    assert cluster_job(environ) == job
    assert cluster_of_several(environ) == (job and job.cluster)


@pytest.mark.parametrize(
    "environ", [SLURM | {"SLURM_NTASKS": "1"}, TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}]
)
def test_a_job_of_one_process_is_not_joined(environ):
    assert cluster_job(environ) is not None
    assert cluster_of_several(environ) is None


OF_JAX: dict[str, tuple[Any, dict[str, str]]] = {
    "Slurm": (SlurmCluster, SLURM),
    "Open MPI 4": (OmpiCluster, OPEN_MPI | OPEN_MPI_4),
    "Open MPI 5": (OmpiCluster, OPEN_MPI | open_mpi_address(OPEN_MPI_5)),
}


@pytest.mark.parametrize("name", OF_JAX)
def test_jax_recognizes_a_job_by_the_same_variables(name, monkeypatch):
    cluster, environ = OF_JAX[name]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cluster.is_env_present()
    job = cluster_job(environ)
    assert job
    assert job[1:] == (cluster.get_process_id(), cluster.get_process_count())
    for name in {*environ} - {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}:
        monkeypatch.delenv(name)
        assert not cluster.is_env_present()
        monkeypatch.setenv(name, environ[name])


def test_processes_of_open_mpi_5_meet_where_its_mpirun_is(monkeypatch):
    [(name, value)] = open_mpi_address(OPEN_MPI_5).items()
    monkeypatch.setenv(name, value)
    address: Any = OmpiCluster.get_coordinator_address
    options = {*inspect.signature(address).parameters} & {"override_coordinator_port"}
    assert address(timeout_secs=1, **dict.fromkeys(options)) == "node-1:61441"


@pytest.mark.parametrize("answers", [True, False])
def test_the_hosts_of_a_cloud_tpu_are_asked_of_its_server(answers, monkeypatch):
    asked = []

    def urlopen(request: urllib.request.Request, **_: Any) -> io.BytesIO:
        asked.append((request.full_url, request.headers))
        if not answers:
            raise urllib.error.URLError("nobody is there")
        return io.BytesIO(b"a:1:10.0.0.1,b:2:10.0.0.2")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("TPU_NAME", "slice")  # so this machine has a TPU
    found = cluster_of_several({"GCE_METADATA_IP": "localhost:1"})
    assert found == ("Cloud TPU" if answers else None)
    path = "/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    assert asked == [(f"http://localhost:1{path}", {"Metadata-flavor": "Google"})]
