"""What of the container files can be checked without a container engine."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.experiments import load_experiment
from service.settings import PREFIX, Settings

pytestmark = pytest.mark.slow  # builds a wheel

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OFFLINE_ONLY = {"torch", "pyarrow", "onnx", "onnxscript", "locust", "gevent", "pytest", "scikit-learn"}


def copied() -> list[str]:
    """Return what the build stage copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def closure(extras: set[str]) -> set[str]:
    """Return every distribution that `slimctr[extras]` installs here, its own name included."""
    seen: set[tuple[str, str]] = set()
    open_requirements = [("slimctr", extra) for extra in ("", *extras)]
    while open_requirements:
        name, extra = open_requirements.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                open_requirements += [(needed, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen}


def test_every_copied_source_exists_and_passes_dockerignore() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for source in copied():
        name = source.removeprefix("./")
        assert (ROOT / name).exists(), name
        assert name in allowed, f".dockerignore keeps {name} out"


def test_the_scoring_image_installs_no_torch_and_nothing_of_the_offline_part() -> None:
    (installed,) = re.findall(
        r'--no-index --find-links /wheels \\\n    "slimctr\[(service[^\]]*)\]"', DOCKERFILE
    )
    needed = closure(set(installed.split(",")))
    assert {"fastapi", "onnxruntime", "redis", "plotly"} <= needed
    assert needed & OFFLINE_ONLY == set()


def test_the_load_generator_imports_only_what_its_image_installs() -> None:
    imported = set()
    for path in (ROOT / "loadtest").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    # Reading Parquet is optional, and says what it needs.
    foreign = imported - sys.stdlib_module_names - {"loadtest", "pyarrow"}
    providers = importlib.metadata.packages_distributions()
    needed = closure({"loadtest"})
    for name in foreign:
        assert {canonicalize_name(provider) for provider in providers[name]} & needed, name


def test_every_needed_distribution_is_pinned() -> None:
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert closure({"service", "dashboard", "loadtest"}) - {"slimctr"} <= pinned


def test_the_copied_sources_build_a_wheel_with_kernels_page_and_profiles(tmp_path: Path) -> None:
    for source in copied():
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=ignored)
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-q", "-w", "wheels", "."], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").glob("slimctr-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.fullmatch(r"slimctr/native/_kernels.*\.so", name) for name in names)
    assert {
        "service/static/dashboard.html",
        "service/static/dashboard.js",
        "service/static/dashboard.css",
    } <= set(names)
    assert "loadtest/profiles/smoke.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "deploy/", "models/"))]


def test_the_image_runs_as_an_unprivileged_user_with_an_exec_entrypoint() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "USER 10001:10001" in final
    assert json.loads(re.findall(r"^ENTRYPOINT (.+)$", final, re.MULTILINE)[0]) == ["slimctr", "serve"]
    assert "/livez" in final[final.index("HEALTHCHECK") :]
    assert "COPY" not in final


@pytest.mark.parametrize("text", [DOCKERFILE, (ROOT / "docker-compose.yml").read_text()])
def test_only_settings_that_exist_are_set(text: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", text)) <= known


def test_compose_mounts_what_exists_and_waits_for_health() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"api", "redis", "prometheus", "grafana", "loadtest"}
    assert services["loadtest"]["profiles"] == ["loadtest"]
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            # The models are the user's own.
            if source.startswith("./") and source != "./models":
                assert (ROOT / source).exists(), source
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"
        build = service.get("build")
        if build and "target" in build:
            assert f"AS {build['target']}\n" in DOCKERFILE


def test_the_example_experiment_is_valid() -> None:
    for path in sorted((ROOT / "deploy" / "experiments").glob("*.yaml")):
        assert load_experiment(path).variants


def test_the_printed_environment_satisfies_compose_and_the_settings() -> None:
    answer = subprocess.run(
        [sys.executable, "deploy/make_env.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    environment = dict(line.split("=", 1) for line in answer.stdout.splitlines())
    required = re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yml").read_text())
    required.append(COMPOSE["secrets"]["metrics_key"]["environment"])
    assert set(required) <= set(environment)
    keys = json.loads(environment["SLIMCTR_API_KEYS"].strip("'"))
    settings = Settings(api_keys=keys, host="0.0.0.0")
    assert {scope for key in settings.api_keys for scope in key.scopes} == {
        "infer",
        "outcomes",
        "metrics",
        "admin",
    }
    assert environment["METRICS_KEY"] not in environment["SLIMCTR_API_KEYS"]
