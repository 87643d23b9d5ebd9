"""Who trains together, from options and from the variables that each launcher sets."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost
from processes import HERE, ends, free_port, start

from hyperface import experiments
from hyperface.devices import processes
from hyperface.devices.launchers import Cluster, cluster_of
from hyperface.errors import InputError
from hyperface.runs import program, train

LAUNCH = Path(processes.__file__).parent / "clusters"
SLURM = {
    "SLURM_JOB_ID": "4099",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-05,9]", "gpu03"),
        ("login", "login"),
        ("a1,b[2-3]", "a1"),
        ("gpu[7,9]-ib,cpu1", "gpu7-ib"),
    ],
)
def test_slurm(nodes, first):
    """The port is the job's own: 12721 + 4099 mod 4096."""
    found = cluster_of(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found == Cluster(f"{first}:12724", 2, 1)


def test_the_step_is_asked_before_the_job():
    step = {"SLURM_STEP_NODELIST": "gpu09", "SLURM_STEP_NUM_TASKS": "4"}
    assert cluster_of(SLURM | step) == Cluster("gpu09:12724", 4, 1)


def test_open_mpi():
    found = cluster_of(MPI | {"HYPERFACE_COORDINATOR": "head:5000"})
    assert found == Cluster("head:5000", 3, 2)
    with pytest.raises(InputError, match="expected HYPERFACE_COORDINATOR in the environment"):
        cluster_of(MPI)


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ({}, None),
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_NODEID": "3"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "0"}, (3,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "1"}, (3,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "2"}, None),
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "8"}, (6, 7)),
        ({"SLURM_NTASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (3,)),
        ({"SLURM_NTASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "2"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, (2,)),
    ],
)
def test_processes_of_one_machine_share_its_gpus_and_one_has_all(more, devices):
    launched = SLURM | {"SLURM_LOCALID": "3"}
    if any(name.startswith("OMPI") for name in more):
        launched = MPI | {"HYPERFACE_COORDINATOR": "head:5000"}
    assert cluster_of(launched | more).devices == devices


def test_jax_does_not_choose_a_gpu_by_itself_under_slurm():
    """Its own detection takes the one of SLURM_LOCALID, where it is not told which."""
    code = (
        "import jax\nfrom hyperface.devices import launchers, processes\n"
        f"processes.initialize(launchers.Cluster('127.0.0.1:{free_port()}', 1, 0))\n"
        "print(jax.config.values['jax_cuda_visible_devices'])"
    )
    job = SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | job, capture_output=True, text=True
    )
    assert shown.stdout == "all\n", shown.stderr


def test_options_come_first_and_together():
    options = {"coordinator": "10.0.0.1:1234", "processes": 2, "process": 0}
    assert cluster_of(SLURM, **options) == Cluster("10.0.0.1:1234", 2, 0)
    with pytest.raises(InputError, match="together, found h:1, None and None"):
        cluster_of({}, coordinator="h:1")
    with pytest.raises(InputError, match="from 0 to processes - 1, found 2 of 2"):
        cluster_of({}, **options | {"process": 2})
    with pytest.raises(InputError, match="as host:port, found 'head'"):
        cluster_of({}, **options | {"coordinator": "head"})


def test_one_process_needs_no_cluster():
    assert cluster_of({}) is None
    assert cluster_of(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    batch = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    assert cluster_of(batch) is None  # A batch script that calls no srun.


def test_what_is_no_number_is_named():
    with pytest.raises(InputError, match="whole number in SLURM_PROCID, found 'one'"):
        cluster_of(SLURM | {"SLURM_PROCID": "one"})
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "4"}
    with pytest.raises(InputError, match=r"a node below 4 in SLURM_NODEID, .* 2\(x3\),1, found 4"):
        cluster_of(SLURM | tasks)


def job_set():
    return yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())


def test_the_job_set_sets_what_is_read():
    """Its variables are fed to the parser as Kubernetes would fill them in."""
    found = job_set()
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    annotations = {
        "metadata.annotations['jobset.sigs.k8s.io/jobset-name']": found["metadata"]["name"],
        "metadata.annotations['jobset.sigs.k8s.io/replicatedjob-name']": job["name"],
    }
    environment = {
        entry["name"]: entry.get("value")
        or annotations[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in container["env"]
    }
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    found = cluster_of(environment | {"JOB_COMPLETION_INDEX": "3"})
    assert found == Cluster("hyperface-workers-0-0.hyperface:12721", spec["completions"], 3)


POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "containers": [
        {
            "name": str,
            "image": str,
            "command": [str],
            "args": [str],
            "env": [{"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}],
            "resources": {"limits": {"nvidia.com/gpu": int}},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim?": {"claimName": str},
            "emptyDir?": {"medium": str},
        }
    ],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": str,
    "backoffLimit": int,
    "template": {"spec": POD},
}
JOB_SET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "failurePolicy": {"maxRestarts": int},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}
"""Of JobSet v1alpha2, Job and Pod: the fields that are used, where they belong; ? marks those that
may be left out."""


def misfits(found, schema, where="jobset"):
    """What does not fit a schema of nested mappings, sequences and types."""
    if isinstance(schema, list):
        return [m for i, x in enumerate(found) for m in misfits(x, schema[0], f"{where}[{i}]")]
    if not isinstance(schema, dict):
        return [] if type(found) is schema else [f"{where}: {found!r}"]
    fields = {name.rstrip("?"): inner for name, inner in schema.items()}
    needed = {name for name in schema if not name.endswith("?")}
    wrong = [f"{where}.{name}" for name in (needed - found.keys()) | (found.keys() - fields.keys())]
    inner = [misfits(found[n], fields[n], f"{where}.{n}") for n in found.keys() & fields.keys()]
    return wrong + [misfit for one in inner for misfit in one]


def test_the_job_set_has_the_fields_of_one_where_they_belong():
    found = job_set()
    assert misfits(found, JOB_SET) == []
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    del pod["restartPolicy"]
    pod["replicas"] = "4"
    assert len(misfits(found, JOB_SET)) == 2
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_the_job_sets_command_is_read_and_a_preempted_pod_is_no_finished_one():
    pod = job_set()["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    *command, name = container["command"]
    assert command == ["python", "-m", "hyperface", "train"]
    default = train.Train(experiments.load(name))
    options = program.parse(
        train.Train, container["args"], prog="", description="", default=default
    )
    assert options.experiment.shard_agents
    assert options.exit_on_preemption == 143


def test_the_scripts_have_no_pitfalls_of_the_shell():
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    benchmark = Path(__file__).parent.parent / "benchmarks/accelerator.sh"
    scripts = [LAUNCH / "slurm.sbatch", LAUNCH / "tpu_pod.sh", benchmark]
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_slurm_script_runs_one_process_a_node_through_srun(tmp_path):
    """With an srun that sets what SLURM's does, and a python that shows its arguments."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nshift\nSLURM_PROCID=1 "$@"\n')
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$SLURM_PROCID $*"\n')
    for script in (srun, python):
        script.chmod(0o755)
    script = LAUNCH / "slurm.sbatch"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(
        ["bash", script, "orl-ring", "--seed", "3"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "1 -m hyperface train orl-ring --seed 3\n"
    assert "#SBATCH --ntasks-per-node 1\n" in script.read_text()


def test_the_tpu_script_starts_every_host_with_options_that_are_read(tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\n[[ $4 == describe ]] && echo 10.0.0.9 || echo "${@: -1}"\n')
    gcloud.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "pod", "zone", "2", "orl-ring", "--workdir", "a b"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = sorted(shown.stdout.splitlines())
    assert len(commands) == 2
    for host, command in enumerate(commands):
        assert "hyperface train 'orl-ring' '--workdir' 'a b' --coordinator" in command
        options = dict(re.findall(r"--(coordinator|processes|process) (\S+)", command))
        options |= {name: int(options[name]) for name in ("processes", "process")}
        assert cluster_of({}, **options) == Cluster("10.0.0.9:12721", 2, host)


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_fails_ends_the_others(failing):
    """At once, not after the patience that an orderly end has with a process that scores."""
    statuses, outputs = ends(start([HERE / "one_fails.py", str(failing)], 2, 1), timeout=25)
    assert statuses[failing] == 2
    assert statuses[1 - failing] not in (0, -9)
    assert "error: expected a whole record" in outputs[failing]


def test_waiting_is_done_at_the_coordinator_and_patiently(monkeypatch):
    """Gloo's collectives give up after 30 seconds, which a data set takes to prepare."""
    met = []

    def barrier():
        return lambda key, timeout_ms: met.append((key, timeout_ms))

    def gathered(value):
        return np.stack([value, value])

    monkeypatch.setattr(multihost, "get_barrier_sync_fn", barrier)
    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    for _ in range(2):
        processes.wait_for_all("prepared")
    assert processes.allgather("sound", "ours \u00e9") == ["ours \u00e9"] * 2
    keys, patience = zip(*met, strict=True)
    assert len(set(keys)) == 3  # A barrier is passed once.
    assert set(patience) == {7 * 24 * 3600 * 1000}
