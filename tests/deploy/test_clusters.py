"""The Kustomize base for Kubernetes, and the scripts for SLURM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import yaml

from carbon_plugin.monitor.monitor import CarbonMonitor
from tests.deploy.conftest import AGENT, DEPLOY, ROOT
from tests.pages import blocks_of

KUBERNETES = "1.33"
"""The release whose schemas judge the manifests."""
BASE = DEPLOY / "kubernetes" / "base"
MANIFESTS = sorted(path for path in BASE.glob("*.yaml") if path.stem != "kustomization")
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def kubectl(*arguments: str) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """Return the objects of the base by kind, as Kustomize writes them."""
    documents = yaml.safe_load_all(kubectl("kustomize", str(BASE)))
    return {document["kind"]: document for document in documents}


def container(daemon_set: Any) -> Any:
    (found,) = daemon_set["spec"]["template"]["spec"]["containers"]
    return found


def judged(document: Any) -> None:
    """Raise what Kubernetes' own schema of this kind of object says against it, unknown fields included."""
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed; `make test` installs it")
    from kubernetes_validate import validate

    validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_schema_of_kubernetes_finds_nothing_in_a_manifest_of_the_base(path):
    judged(yaml.safe_load(path.read_text()))


def test_manifests_that_kustomize_writes_are_sound_too(rendered):
    assert len(rendered) == len(MANIFESTS)
    for document in rendered.values():
        judged(document)


def test_field_of_a_wrong_name_would_be_found():
    mistaken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIp": "None"}}

    with pytest.raises(Exception, match="clusterIp"):
        judged(mistaken)


def test_service_finds_the_port_of_the_agent(rendered):
    service, daemon_set = rendered["Service"], rendered["DaemonSet"]
    (port,), (declared,) = service["spec"]["ports"], container(daemon_set)["ports"]

    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert port["targetPort"] == declared["name"]
    assert f"--port={declared['containerPort']}" in container(daemon_set)["args"]


def test_arguments_of_the_container_are_taken_by_the_agent_with_the_labels_of_the_pod(rendered, tmp_path):
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")
    values = {"NODE_NAME": "node-7", "POD_NAME": "agent-x", "POD_NAMESPACE": "carbon"}
    one = container(rendered["DaemonSet"])
    declared = {variable["name"] for variable in one["env"] if "valueFrom" in variable}
    arguments = [re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], text) for text in one["args"]]
    arguments = [text.replace("--run-dir=/runs", f"--run-dir={tmp_path}") for text in arguments]

    done = subprocess.run(
        [sys.executable, "-c", AGENT, *one["command"][1:], *arguments, "--once"],
        capture_output=True, text=True, check=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip

    assert declared == set(values)
    sample = next(line for line in done.stdout.splitlines() if line.startswith("carbon_plugin_device_power_watts{"))
    for label in ('node="node-7"', 'pod="agent-x"', 'namespace="carbon"'):
        assert label in sample


def test_overlay_of_the_page_renders_with_its_image_and_volume(tmp_path):
    (overlay,) = (block.code for block in blocks_of("docs/clusters.md", "yaml"))
    base = os.path.relpath(BASE, tmp_path)
    local = re.sub(r"https://\S+/deploy/kubernetes/base", base, overlay)
    (tmp_path / "kustomization.yaml").write_text(local)

    documents = list(yaml.safe_load_all(kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path))))

    assert local != overlay
    (daemon_set,) = (document for document in documents if document["kind"] == "DaemonSet")
    assert container(daemon_set)["image"] == "ghcr.io/your-site/carbon-plugin:0.1.0"
    volume = daemon_set["spec"]["template"]["spec"]["volumes"][0]
    assert volume == {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """Return the environment of a SLURM script, with a `scontrol` that keeps its arguments and a `carbon-plugin`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    called, root, python = (quote(str(path)) for path in (tmp_path / "called", ROOT, sys.executable))
    (folder / "scontrol").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {called}\n')
    (folder / "carbon-plugin").write_text(f'#!/bin/bash\ncd {root} && exec {python} -c "{AGENT}" "$@"\n')
    for script in folder.iterdir():
        script.chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CARBON_PLUGIN_RUNS": str(tmp_path / "runs"),
        "SLURM_JOB_ID": "4711", "SLURM_JOB_USER": "alice", "USER": "root", "TMPDIR": str(tmp_path),
    }  # fmt: skip


def run_script(name: str, environ: dict[str, str]) -> str:
    command = ["bash", str(DEPLOY / "slurm" / name)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_prolog_gives_a_job_a_directory_unless_it_has_one_or_measures_nothing(slurm):
    assert (
        run_script("task_prolog.sh", slurm)
        == f"export CARBON_PLUGIN_RUN_DIR={slurm['CARBON_PLUGIN_RUNS']}/alice/job-4711\n"
    )
    assert run_script("task_prolog.sh", slurm | {"CARBON_PLUGIN_RUN_DIR": "/mine"}) == ""
    assert run_script("task_prolog.sh", slurm | {"CARBON_PLUGIN_DISABLED": "1"}) == ""


def test_epilog_writes_a_line_on_the_run_into_the_comment_of_its_job(slurm, tmp_path):
    run_dir = Path(slurm["CARBON_PLUGIN_RUNS"]) / "alice" / "job-4711"
    with CarbonMonitor(run_dir=run_dir, name="llama", site="FRA", total_steps=3, quiet=True) as monitor:
        for _ in range(3):
            monitor.step_end()

    run_script("epilog_slurmctld.sh", slurm)

    update, job, comment = (tmp_path / "called").read_text().splitlines()
    assert (update, job) == ("update", "JobId=4711")
    assert comment.startswith("Comment=llama: closed, step 3 of 3, ")
    assert "CO2e (" in comment
    assert comment.endswith(" measured")


def test_epilog_leaves_a_job_without_a_readable_run_alone(slurm, tmp_path):
    run_script("epilog_slurmctld.sh", slurm)
    (Path(slurm["CARBON_PLUGIN_RUNS"]) / "alice" / "job-4711").mkdir(parents=True)
    run_script("epilog_slurmctld.sh", slurm)

    assert not (tmp_path / "called").exists()


def test_scripts_are_sound_shell():
    scripts = sorted((DEPLOY / "slurm").glob("*.sh"))

    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", *map(str, scripts)], check=True)
