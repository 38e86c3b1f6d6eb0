"""Files for batch systems: what they start, and that their own tools can read them."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest
import yaml

from esft_bench.harness.commands.submit import SubmitOptions, submit
from esft_bench.spec.errors import UserError
from tests.changed import REPOSITORY

CLUSTERS = REPOSITORY / "docs" / "clusters"


def written(folder: Path, *run: str, **options) -> Path:
    told = SubmitOptions(list(run), slurm=True, out=folder / "job.sbatch", **options)
    return submit(told, Path("/env/bin/ray"), Path("/env/bin/esft-bench"))


def test_a_job_starts_ray_on_all_its_nodes_and_the_run_on_the_first(tmp_path):
    """Carried out by a shell whose srun and scontrol only say what they were asked."""
    job = written(tmp_path, "paper", "--only", "method=esft-gate,task=law", nodes=2, gpus=4, cores=16)
    for name, says in (("srun", f"env > {tmp_path}/found; printf '%s\\n' \"$@\""), ("scontrol", "printf 'n1\\nn2\\n'")):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{says}\n")
        tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(["bash", job], env=environment, capture_output=True, text=True, check=True)
    _, _, asked = done.stdout.partition("symmetric-run\n")
    before, _, command = asked.partition("\n--\n")
    assert before.splitlines() == ["--address", "n1:6379", "--min-nodes", "2", "--num-cpus", "16", "--num-gpus", "4"]
    run = ["/env/bin/esft-bench", "run", "paper", "--only", "method=esft-gate,task=law", "--on", "ray"]
    assert command.splitlines() == run
    found = dict(line.split("=", 1) for line in (tmp_path / "found").read_text().splitlines())
    assert found["PATH"].startswith("/env/bin:")  # `ray symmetric-run` looks for `ray` there
    assert (found["RAY_AUTH_MODE"], len(bytes.fromhex(found["RAY_AUTH_TOKEN"]))) == ("token", 32)


def test_a_job_asks_for_what_it_was_told(tmp_path):
    job = written(tmp_path, "mini", nodes=3, gpus=2, time="8:00:00", sbatch=["partition=gpu", "account=lab"])
    subprocess.run(["bash", "-n", job], check=True)
    asked = [line.removeprefix("#SBATCH --") for line in job.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"nodes=3", "gpus-per-node=2", "time=8:00:00", "partition=gpu", "account=lab", "requeue"} <= set(asked)


@pytest.mark.parametrize(
    ("run", "options", "why"),
    [
        (["mini", "--on", "local"], {}, "leave out --on"),
        (["mini", "--on=ray"], {}, "leave out --on"),
        (["mini"], {"sbatch": ["partition=gpu\nrm -rf x"]}, "cannot stand in a line"),
        (["mini"], {"time": ""}, "cannot stand in a line"),
    ],
)
def test_what_cannot_be_submitted_is_refused(tmp_path, run, options, why):
    with pytest.raises(UserError, match=why):
        written(tmp_path, *run, **options)
    assert not list(tmp_path.iterdir())


def test_a_batch_system_has_to_be_named(tmp_path):
    with pytest.raises(UserError, match="--slurm"):
        submit(SubmitOptions(["mini"]), tmp_path, tmp_path)


def test_the_file_for_skypilot_is_one_that_bash_can_run():
    told = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    for script in (told["setup"], told["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "--on ray" in told["run"]
    assert 'PATH="$PWD/.venv/bin:$PATH"' in told["run"]
    assert told["resources"]["accelerators"] == "H100:8"


def test_the_pods_of_kuberay_share_one_volume_and_the_version_of_ray_that_is_installed():
    told = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())["spec"]
    cluster = told["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert [claims[mount["name"]] for mount in container["volumeMounts"]] == ["esft-bench"]
    assert "--run-dir /shared/" in told["entrypoint"]
    pytest.importorskip("ray")
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
