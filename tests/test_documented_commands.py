"""Every command in README, docs/ and the help is one that the program understands."""

import re
import shlex
from pathlib import Path
from typing import Final

import pytest
import typer

from mammo import cli

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK: Final = re.compile(r"```sh\n(.*?)```", re.DOTALL)
WORDS: Final = {"N": "2", "VERSION": "2", "ID": "2", "FILM": "film.pgm"}
"""Placeholders of the documents."""


def documented() -> list[tuple[str, str]]:
    """Each line of a shell block and each `mammo …` in the text, with its document; each command's own example."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        blocks = "".join(BLOCK.findall(text)).replace("\\\n", " ")
        inline = re.findall(r"`((?:mammo|make) [^`…]+)`", BLOCK.sub("", text))
        lines = [line.strip() for line in blocks.splitlines()]
        found += [(path.name, line) for line in (*lines, *inline) if re.match("(mammo|make) ", line)]
    top = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    every = top | {f"tune {name}": command for name, command in top["tune"].commands.items()}
    found += [(f"mammo {words}", one.epilog.removeprefix("Example: ")) for words, one in every.items()]
    return sorted(set(found))


@pytest.mark.parametrize(("document", "line"), documented())
def test_a_documented_command_is_understood(document: str, line: str) -> None:
    assert f"{line} ".startswith(f"{document} ") or document.endswith(".md")
    program, *words = shlex.split(re.split(r"\s[|>&]", line)[0], comments=True)
    if program == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), document
        return
    command = typer.main.get_command(cli.app)
    words = [WORDS.get(word, word) for word in words]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    if words == ["--help"]:
        return
    named = [word for word in words if not word.startswith("-")]
    if named or not any(one.required for one in command.params):  # `mammo predict --json` names no picture
        command.make_context(command.name, words)
