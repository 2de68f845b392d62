"""The launchers: their systems accept the files, and they start trainings.

Stand-ins for `srun` and `gcloud` start the processes on this machine, with Slurm's variables.
"""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, strict_json
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from subprocesses import OPTIONS, free_port

LAUNCHERS = ROOT / "launchers"
BIN = Path(sys.executable).parent
TINY = ["--config=configs/smoke.py", *OPTIONS, "--epochs=1"]
# The processes beside the first one compile each time: quickly, not well.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

SRUN = """#!/bin/bash
echo "$*" >> "$RECORDS/srun"
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NODELIST=localhost "$@" &
    tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do
    wait "$task" || { code=$?; worst=$((code > worst ? code : worst)); }
done
exit $worst
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$RECORDS/scontrol"
kill $PPID  # as Slurm ends the script of a job that it queues again
"""
GCLOUD = """#!/bin/bash
printf '%s\\n' "$*" >> "$RECORDS/gcloud"
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}  # what other tests have compiled
for argument; do [[ $argument != --command=* ]] || command=${argument#--command=}; done
for machine in 0 1; do
    home=$RECORDS/machine-$machine
    if [[ $4 == scp ]]; then
        mkdir -p "$home" && cp "$5" "$home"
    else
        HOME=$home PATH=$MACHINE:$PATH SLURM_PROCID=$machine SLURM_LOCALID=$machine \\
            SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost bash -c "$command" &
        pids+=($!)
    fi
done
for pid in "${pids[@]}"; do wait "$pid" || exit; done
"""
PYTHON = """#!/bin/bash
[[ "${*:1:3}" == "-m pip wheel" && -f $8/pyproject.toml ]] && echo wheel > "$7/mnist_jax-1.0.whl"
"""
MACHINE = {
    "mountpoint": "#!/bin/bash\n[[ $* == '-q /mnt/shared' ]]\n",
    # Installs "uv", which makes an environment with the mnist-jax that is tested here.
    "python3": '#!/bin/bash\nmkdir -p ~/.local/bin && cp "$MACHINE/uv" ~/.local/bin\n',
    "uv": """#!/bin/bash
set -e
case $1 in
    venv) mkdir -p "${!#}/bin" ;;
    pip) [[ -s ${!#} ]] && ln -s "$BIN/mnist-jax" ~/mnist-jax/bin/ ;;
esac
""",
}


def write_programs(directory: Path, **programs: str) -> None:
    directory.mkdir(exist_ok=True)
    for name, text in programs.items():
        (directory / name).write_text(text, encoding="utf-8")
        (directory / name).chmod(0o755)


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """Returns the environment of two tasks: of one job of Slurm, or on two machines."""
    write_programs(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, gcloud=GCLOUD, python3=PYTHON)
    write_programs(tmp_path / "machine", **MACHINE)
    return os.environ | {
        "BIN": str(BIN),
        "MACHINE": str(tmp_path / "machine"),
        "PATH": f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}",
        "RECORDS": str(tmp_path),
        # JAX makes the port of the coordinator from the number of the job.
        "SLURM_JOB_ID": str(free_port(61440, 65536) - 61440),
        "SLURM_NTASKS": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "XLA_FLAGS": QUICK,
    }


def run(*command: object, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **kwargs)


def check_run(workdir: Path, printed: str) -> None:
    """Fails unless two processes have trained together, with one result, printed once."""
    assert strict_json(workdir / "result.json")["process_count"] == 2
    assert printed.count("test loss") == 1, printed


def test_a_launcher_has_fewer_than_40_lines():
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in LAUNCHERS.iterdir()}
    assert max(lines.values()) < 40, lines


@pytest.mark.parametrize("script", sorted(LAUNCHERS.glob("*.sh")), ids=lambda script: script.name)
def test_shellcheck_accepts_a_script_that_says_how_it_is_called(script, cluster):
    checked = run(BIN / "shellcheck", "--enable=quote-safe-variables", script)
    assert checked.returncode == 0, checked.stdout
    assert os.access(script, os.X_OK)
    done = run(script, env=cluster)
    assert done.returncode == 2
    assert re.fullmatch(r"usage: .*--config FILE --workdir DIR\n", done.stderr)


@pytest.mark.slow
def test_slurm_trains_in_two_tasks(cluster, tmp_path):
    workdir = tmp_path / "a run"
    done = run(LAUNCHERS / "slurm.sh", *TINY, "--workdir", workdir, env=cluster)
    assert done.returncode == 0, done.stderr
    check_run(workdir, done.stdout)
    options = (tmp_path / "srun").read_text(encoding="utf-8")
    assert "--kill-on-bad-exit=0" in options  # what one site sets otherwise would end saving
    assert not (tmp_path / "scontrol").exists()


CODES = [
    ("0 0", 0, False),
    ("2 2", 0, False),  # bad input
    ("3 3", 0, False),  # diverged
    ("143 143", 0, True),  # stopped, and saved
    ("2 5", 0, True),  # one task had a full disk, and the other one lost it
    ("137 5", 0, True),  # one task was killed
    ("5 5", 99, True),
    ("5 5", 100, False),
]


@pytest.mark.parametrize(("codes", "restarts", "again"), CODES)
def test_slurm_queues_a_run_again_if_it_can_be_resumed(codes, restarts, again, cluster, tmp_path):
    ends = f"#!/bin/bash\ncodes=({codes}); exit ${{codes[SLURM_PROCID]}}\n"
    write_programs(tmp_path / "bin", **{"mnist-jax": ends})
    environment = cluster | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {})
    done = run(LAUNCHERS / "slurm.sh", "--config=x", env=environment)
    requeued = (tmp_path / "scontrol").read_text("utf-8") if again else ""
    assert requeued == f"requeue {cluster['SLURM_JOB_ID']}\n" * again
    worst = max(map(int, codes.split()))
    assert done.returncode == (-signal.SIGTERM if again else worst)


@pytest.fixture
def jobset() -> dict:
    return yaml.safe_load((LAUNCHERS / "jobset.yaml").read_text(encoding="utf-8"))


def test_jobset_has_the_fields_of_kubernetes_and_names_its_pods_the_same_in_all_places(jobset):
    """The types of JobSet, Job and pod drop unknown fields."""
    read: Any = JobsetV1alpha2JobSet.from_dict(jobset)
    assert read.to_dict() == jobset
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert job["parallelism"] == job["completions"]
    assert f"--distributed.num-processes={job['parallelism']}" in container["args"]
    name = jobset["metadata"]["name"]
    first = f"{name}-{workers['name']}-0-0.{name}"  # as JobSet names the pod 0 of its job 0
    assert container["args"][0].startswith(f"--distributed.coordinator={first}:")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
def test_jobset_trains_in_two_pods(jobset, tmp_path):
    """Runs the command of the pods, with names of this machine."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    coordinator = f"localhost:{free_port()}"

    def on_this_machine(text: str, index: int) -> str:
        text = text.replace("mnist-jax-workers-0-0.mnist-jax:8476", coordinator)
        return text.replace("/shared", str(tmp_path)).replace("$(JOB_COMPLETION_INDEX)", str(index))

    def run_pod(index: int) -> subprocess.CompletedProcess[str]:
        words = [*container["command"], *container["args"], *TINY]
        program, *options = [on_this_machine(word, index) for word in words]
        given = {e["name"]: on_this_machine(e["value"], index) for e in container["env"]}
        return run(BIN / program, *options, env=os.environ | {"XLA_FLAGS": QUICK} | given)

    with ThreadPoolExecutor() as executor:
        pods = [*executor.map(run_pod, range(job["completions"]))]
    assert [pod.returncode for pod in pods] == [0, 0], pods
    check_run(tmp_path / "runs" / "first", "".join(pod.stdout for pod in pods))


@pytest.mark.slow
def test_tpu_pod_trains_on_all_machines(cluster, tmp_path):
    workdir = tmp_path / "a run"
    args = ["slice", "zone-a", *TINY, "--workdir", workdir]
    done = run(LAUNCHERS / "tpu_pod.sh", *args, env=cluster)
    assert done.returncode == 0, done.stderr
    check_run(workdir, done.stdout)
    for line in (tmp_path / "gcloud").read_text("utf-8").splitlines():
        if line.startswith("compute"):  # others are of a command of several lines
            assert re.match(r"compute tpus tpu-vm (ssh slice|scp .+\.whl slice:) ", line)
            assert "--zone=zone-a --worker=all" in line


def test_the_launchers_start_the_pods_whose_programs_are_compiled_ahead(jobset):
    text = (ROOT / "benchmarks/ahead.py").read_text(encoding="utf-8")
    targets = dict(re.findall(r'"([\w-]+)": Devices\(.*?, (\d+)\)', text))
    [job] = jobset["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    pods, gpus = job["completions"], container["resources"]["limits"]["nvidia.com/gpu"]
    slurm = (LAUNCHERS / "slurm.sh").read_text(encoding="utf-8")
    nodes, tasks = re.findall(r"--(?:nodes|gpus-per-node)=(\d+)", slurm)
    tpu = (LAUNCHERS / "tpu_pod.sh").read_text(encoding="utf-8")
    assert targets["h100-16"] == str(pods * gpus) == str(int(nodes) * int(tasks))
    assert re.findall(r"v5litepod-(\d+)", tpu) == [targets["v5e-256"]]
