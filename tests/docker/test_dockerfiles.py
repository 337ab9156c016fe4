"""The files of `docker/`, read but not built: what an image holds, who it runs as, what is published."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.docker.dockerfiles import (
    COMPOSE_FILE,
    FOLDER,
    ROOT,
    Instruction,
    environment,
    exec_form,
    final_stage,
    health_command,
    read_compose,
    read_dockerfile,
    start_command,
    texts,
)

DOCKERFILES: Final = sorted(FOLDER.glob("*.Dockerfile"))
QUIET: Final = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
QUIET_DATA: Final = {"DVC_NO_ANALYTICS": "1", "GX_ANALYTICS_ENABLED": "false"}
SERVICES: Final[dict[str, dict[str, Any]]] = read_compose()["services"]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def instructions(path: Path) -> list[Instruction]:
    return read_dockerfile(path)


def image_tags(instructions: list[Instruction]) -> list[str]:
    """Base images that come from a registry."""
    names = [
        re.fullmatch(r"(\S+)(?:\s+AS\s+(\S+))?", text, re.IGNORECASE) for text in texts(instructions, "FROM")
    ]
    assert all(names), texts(instructions, "FROM")
    stages = {match[2] for match in names if match is not None}
    return [match[1] for match in names if match is not None and match[1] not in stages]


def copied_from_context(instructions: list[Instruction], stage: int | None = None) -> list[str]:
    """Sources of the `COPY` instructions that read the checkout."""
    copies = [one for one in instructions if one.keyword == "COPY" and "--from=" not in one.text]
    return [source for one in copies if stage in (None, one.stage) for source in one.text.split()[:-1]]


def test_there_is_an_image_for_training_serving_and_tracking() -> None:
    assert [path.name for path in DOCKERFILES] == [
        "mlflow.Dockerfile",
        "serve.Dockerfile",
        "train.Dockerfile",
    ]


def test_hadolint_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    # DL3008 wants Debian's package versions pinned, which Debian removes at every security update.
    lint = subprocess.run(
        [program, "--ignore", "DL3008", str(path)], capture_output=True, text=True, check=False
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_base_images_have_a_version(instructions: list[Instruction]) -> None:
    for name in image_tags(instructions):
        tag = name.rpartition("/")[2].partition(":")[2]
        assert re.match(r"\d", tag), name


def test_the_program_runs_as_a_user_that_the_image_makes_and_that_is_not_root(
    instructions: list[Instruction],
) -> None:
    stage = final_stage(instructions)
    user = texts(stage, "USER")[-1]
    assert user == "$UID" or int(user) > 0  # a number: a cluster can see that it is not root
    assert any(re.search(rf'useradd .*--uid "?{re.escape(user)}"? ', text) for text in texts(stage, "RUN"))
    after = stage[stage.index(Instruction(stage[0].stage, "USER", user)) :]
    assert {one.keyword for one in after} <= {"USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_start_and_health_check_need_no_shell(instructions: list[Instruction]) -> None:
    stage = final_stage(instructions)
    for keyword in ("CMD", "ENTRYPOINT"):
        for text in texts(stage, keyword):
            assert exec_form(text)
    assert health_command(instructions)[0] not in {"sh", "bash"}


def test_a_port_is_the_same_where_it_is_exposed_listened_on_and_checked(
    instructions: list[Instruction],
) -> None:
    command, check = start_command(instructions), " ".join(health_command(instructions))
    for port in texts(final_stage(instructions), "EXPOSE"):
        assert command[command.index("--port") + 1] == port
        assert f":{port}/" in check


def test_nothing_is_added_from_an_address(instructions: list[Instruction]) -> None:
    assert texts(instructions, "ADD") == []
    assert not any(re.search(r"\b(curl|wget)\b", text) for text in texts(instructions, "RUN"))


def test_what_is_copied_exists_and_enters_the_build(instructions: list[Instruction]) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    for source in copied_from_context(instructions):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in rules, source


def test_data_models_and_runs_do_not_enter_the_build() -> None:
    entering = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert entering == {"README.md", "constraints.txt", "mammo", "params.yaml", "pyproject.toml"}


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


def test_no_image_calls_home_or_loads_pickles(path: Path, instructions: list[Instruction]) -> None:
    wanted = QUIET if path.name == "mlflow.Dockerfile" else QUIET | QUIET_DATA
    assert environment(final_stage(instructions)).items() >= wanted.items()


def test_no_secret_lies_in_an_image(instructions: list[Instruction]) -> None:
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
    tracked = subprocess.run(
        ["git", "ls-files", "mammo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    on_disk = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}

    assert packed >= on_disk


def test_services_are_built_from_dockerfiles_that_exist_or_from_images_with_a_version() -> None:
    for service in SERVICES.values():
        if "build" in service:
            context = (COMPOSE_FILE.parent / service["build"]["context"]).resolve()
            assert context == ROOT
            assert context / service["build"]["dockerfile"] in DOCKERFILES
        else:
            assert re.fullmatch(r"[\w/.-]+:\d[\w.-]*", service["image"])


def test_published_ports_are_bound_to_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not str(port).startswith("127.0.0.1:")] == []
    assert "ports" not in SERVICES["postgres"]


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a nested value with the name that it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)
    else:
        yield key, str(value)


def test_no_password_stands_in_the_compose_file() -> None:
    for name, text in strings(SERVICES):
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@", text), text
        if re.search("PASSWORD|SECRET|TOKEN", name, re.IGNORECASE):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", text), f"{name} must be required from the environment"


def test_the_example_of_the_env_file_names_every_variable_and_gives_no_value() -> None:
    needed = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    lines = (FOLDER / ".env.example").read_text().splitlines()
    assert {line for line in lines if line and line[0] != "#"} == {f"{name}=" for name in needed}


def test_the_env_file_is_ignored_by_git() -> None:
    answer = subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"], cwd=ROOT, check=False)
    assert answer.returncode == 0


def test_a_service_that_must_be_healthy_for_another_has_a_health_check() -> None:
    for service in SERVICES.values():
        for name, rule in service.get("depends_on", {}).items():
            assert rule == {"condition": "service_healthy"}
            needed = SERVICES[name]
            checked = "healthcheck" in needed or health_command(
                read_dockerfile(ROOT / needed["build"]["dockerfile"])
            )
            assert checked, name


def test_volumes_are_named_and_declared_or_the_checkout() -> None:
    declared = set(read_compose()["volumes"])
    mounted = {v.split(":")[0] for service in SERVICES.values() for v in service.get("volumes", [])}
    assert mounted == declared | {".."}


def test_the_reader_joins_continued_lines_and_counts_stages(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(
        '# note\nFROM a:1 AS b\nRUN x \\\n    # why\n    && y\nFROM c:2\nENV A=1 \\\n    B="2 3"\nCMD ["d"]\n'
    )
    read = read_dockerfile(path)
    assert read == [
        Instruction(0, "FROM", "a:1 AS b"),
        Instruction(0, "RUN", "x  && y"),
        Instruction(1, "FROM", "c:2"),
        Instruction(1, "ENV", 'A=1  B="2 3"'),
        Instruction(1, "CMD", '["d"]'),
    ]
    assert environment(final_stage(read)) == {"A": "1", "B": "2 3"}
    assert start_command(read) == ["d"]
    with pytest.raises(json.JSONDecodeError):
        exec_form("mammo serve")
