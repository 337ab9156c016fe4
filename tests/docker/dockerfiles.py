"""Reads the files of `docker/`: instructions of a Dockerfile, services of the compose file."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docker"
COMPOSE_FILE: Final = FOLDER / "compose.yaml"
SECRETS: Final = {
    "POSTGRES_PASSWORD": "of the superuser",
    "MLFLOW_DATABASE_PASSWORD": "p@ss:/word%20 'quoted'",  # all that would have to be escaped in an address
    "MLFLOW_ADMIN_PASSWORD": "of the account: admin",
    "MLFLOW_SECRET_KEY": "of forms",
}


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined.

    Attributes:
        stage: number of the `FROM` that it follows, 0 for the first.
        keyword: in upper case.
        text: what follows the keyword.
    """

    stage: int
    keyword: str
    text: str


def read_dockerfile(path: Path) -> list[Instruction]:
    """The instructions in order. Here-documents are not understood."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    instructions: list[Instruction] = []
    stage = -1
    for line in logical:
        keyword, _, text = line.strip().partition(" ")
        stage += keyword.upper() == "FROM"
        instructions.append(Instruction(stage, keyword.upper(), text.strip()))
    return instructions


def final_stage(instructions: list[Instruction]) -> list[Instruction]:
    """What makes the image; earlier stages are thrown away."""
    return [one for one in instructions if one.stage == instructions[-1].stage]


def texts(instructions: list[Instruction], keyword: str) -> list[str]:
    """The texts of all instructions of one kind."""
    return [one.text for one in instructions if one.keyword == keyword]


def environment(instructions: list[Instruction]) -> dict[str, str]:
    """The variables that `ENV` sets, later over earlier."""
    words = [word for text in texts(instructions, "ENV") for word in shlex.split(text)]
    return dict(word.split("=", maxsplit=1) for word in words)


def start_command(instructions: list[Instruction]) -> list[str]:
    """`ENTRYPOINT` and `CMD` of the image, as Docker joins them. In shell form they are no JSON, and a ValueError."""
    stage = final_stage(instructions)
    last = [texts(stage, keyword)[-1:] for keyword in ("ENTRYPOINT", "CMD")]
    return [str(word) for found in last for text in found for word in json.loads(text)]


def health_command(instructions: list[Instruction]) -> list[str]:
    """The program that `HEALTHCHECK` runs in the image. Raises ValueError where it is in shell form."""
    _, _, text = texts(final_stage(instructions), "HEALTHCHECK")[-1].partition("CMD ")
    return [str(word) for word in json.loads(text)]


def compose_text(variables: Mapping[str, str]) -> str:
    """The compose file with `${NAME:?…}` and `${NAME:-…}` filled in; the first kind must be given."""

    def filled(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        value = variables.get(name, default) if kind == "-" else variables[name]
        # Quoted as JSON, which is YAML: a password may hold any character.
        return json.dumps(value)

    return re.sub(r"\$\{(\w+):([?-])([^}]*)\}", filled, COMPOSE_FILE.read_text())


def read_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file, with its variables filled in if any are given."""
    text = COMPOSE_FILE.read_text() if variables is None else compose_text(variables)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def nginx_config(folder: Path, port: int, registry_port: int, voting: list[str], registry_url: str) -> Path:
    """`docker/nginx.conf` with this machine's ports and paths; addresses in place of the names that Docker resolves."""
    text = (FOLDER / "nginx.conf").read_text()
    server = "server {} max_fails=1 fail_timeout=2s;"
    others = {
        "/tmp/": f"{folder}/",
        # All clients of a test share one address: a header tells them apart.
        "listen 8000;": f"listen 127.0.0.1:{port}; set_real_ip_from 127.0.0.1; real_ip_header X-Client;",
        "listen 5000;": f"listen 127.0.0.1:{registry_port};",
        server.format("voting:8000 resolve"): " ".join(server.format(url.removeprefix("http://")) for url in voting),
        "mlflow:5000 resolve": registry_url.removeprefix("http://"),
    }
    for old, new in others.items():
        assert old in text, f"docker/nginx.conf lacks {old!r}"
        text = text.replace(old, new)
    if os.geteuid() == 0:
        text = f"user root;\n{text}"  # its workers may enter pytest's folders
    path = folder / "nginx.conf"
    path.write_text(text)
    return path
