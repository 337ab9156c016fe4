"""Options and checks that several commands share."""

import socket
from pathlib import Path
from typing import Annotated, Final

import typer

from mammo.core.errors import MammoError

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", help="Folder with params.yaml, data/ and mlruns/ (default: the current one)."
    ),
]
HERE: Final = Path()


def check_port(host: str, port: int) -> None:
    """Refuse an address before a server's libraries are loaded.

    Raises:
        MammoError: it cannot be listened on.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise MammoError(
            f"{host}:{port}: cannot be listened on ({error}); choose another with --port"
        ) from error
