"""What a process is told of its place, and what JAX makes of it."""

import os
import urllib.request

from mnist_jax.processes.clusters import Place, place_among_several, places

SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a[1-2]",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
TPU = {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}


PLACES: list[tuple[dict[str, str], list[Place]]] = [
    ({}, []),
    ({"SLURM_JOB_ID": "7"}, []),  # a shell of `salloc`
    (SLURM, [Place("Slurm", "2", "8")]),
    (OPEN_MPI, [Place("Open MPI", "1", "4", ("OMPI_MCA_orte_hnp_uri",))]),
    (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1"}, [Place("Open MPI", "1", "4")]),
    (
        OPEN_MPI | {"PMIX_NAMESPACE": "prterun-node-1-4097@1"},
        [
            Place(
                *("Open MPI", "1", "4", ()),
                {
                    "coordinator_address": "node-1:61441",
                    "num_processes": 4,
                    "process_id": 1,
                    "local_device_ids": 0,
                },
            )
        ],
    ),
    (TPU, [Place("Cloud TPU", "3", "4")]),
    (
        TPU | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"},
        [Place("Cloud TPU", "7", "8")],
    ),
    (SLURM | TPU, [Place("Slurm", "2", "8"), Place("Cloud TPU", "3", "4")]),
]


def test_a_cluster_tells_which_process_this_is():
    for environ, expected in PLACES:
        assert places(environ) == expected, environ


def test_jax_recognizes_a_cluster_by_the_same_variables(monkeypatch):
    """A change of JAX's own names would make ours a lie."""
    from jax._src.clusters import OmpiCluster, SlurmCluster

    for cluster, environ in (
        (SlurmCluster, SLURM),
        (OmpiCluster, OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1"}),
    ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert cluster.is_env_present()
        [place] = places(environ)
        told = (cluster.get_process_id(), cluster.get_process_count())
        assert told == (int(place.number), int(place.processes))
        needed = {*environ} - {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}
        for name in needed:
            monkeypatch.delenv(name)
            assert not cluster.is_env_present()
            monkeypatch.setenv(name, environ[name])


JOINED: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # without srun
    (SLURM, "Slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    (OPEN_MPI, None),  # JAX does not recognize it, and there is nothing else to go by
    (SLURM | OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:1"}, "Open MPI"),
    (TPU, "Cloud TPU"),
    (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
]


def test_only_a_job_of_several_processes_is_joined():
    for environ, cluster in JOINED:
        found = place_among_several(environ)
        assert (found and found.cluster) == cluster, environ


def test_the_hosts_of_a_cloud_tpu_are_asked_of_its_server(monkeypatch):
    """A server on this machine stands in for Google's."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    asked = []

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a:1:10.0.0.1,b:2:10.0.0.2")

        def log_message(self, format, *args):  # noqa: A002
            pass

    for name in [name for name in os.environ if name.startswith(("COLAB", "TPU", "JAX_PLATFORMS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_NAME", "slice")  # so this machine has a TPU
    urlopen = urllib.request.urlopen  # which has to wait for longer where much else is done
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: urlopen(url, timeout=60))
    with HTTPServer(("localhost", 0), Metadata) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environ = {"GCE_METADATA_IP": f"localhost:{server.server_port}"}
        assert place_among_several(environ) == Place("Cloud TPU", "?", "2")
        server.shutdown()
    path = "/computeMetadata/v1/instance/attributes/worker-network-endpoints"
    assert asked == [(path, "Google")]
    assert place_among_several(environ) is None  # nobody answers
