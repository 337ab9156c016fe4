"""The service as a program: where it listens, what it logs, how it ends."""

import asyncio
import ctypes
import gc
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

import uvicorn

from mammo.core.files import Workspace
from mammo.serve.app import create_app
from mammo.serve.service import TOKEN, Service

LOCAL: Final = ("localhost", "127.0.0.1", "[::1]", "testserver")
IDLE_S: Final = 10
M_MMAP_THRESHOLD: Final = -3


class Draining(uvicorn.Server):
    """On SIGTERM it says that it is not ready, answers for a while longer, and then ends as uvicorn does."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGTERM and SIGINT; a second signal ends at once."""
        if self.service.draining:
            self.force_exit = self.should_exit = True
            return
        self.service.draining = True
        seconds = self.service.config.serve.drain_s if sig == signal.SIGTERM else 0
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, seconds, setattr, self, "should_exit", True)


def give_memory_back() -> None:
    """Have the C library (glibc alone) give large blocks back when they are freed, however many came before them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**17)


def serve(
    workspace: Workspace, host: str, port: int, allowed_hosts: Sequence[str], say: Callable[[str], None]
) -> None:
    """Serve the champion until the end, and say where once it answers.

    Raises:
        MammoError: there is no champion, or it fails its check.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mammo.serve").setLevel(logging.INFO)
    give_memory_back()
    # Every poll of the registry asks again: MLflow's own repetitions would hold it for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    service = Service(workspace)
    settings: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "lifespan": "off",
    }
    app = create_app(service, [*LOCAL, host, *allowed_hosts])
    config = uvicorn.Config(app, host=host, port=port, timeout_keep_alive=IDLE_S, **settings)

    async def run() -> None:
        async with service.running():
            gc.freeze()  # MLflow's half a million objects: looking through them would hold every answer for 150 ms
            say(f"voting service: http://{host}:{port} (stop with Ctrl-C)")
            await Draining(config, service).serve()

    asyncio.run(run())


def warning_for(host: str) -> str:
    """What to know before the service is reachable from elsewhere; empty on the machine itself."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if is_loopback or os.environ.get(TOKEN):
        return ""
    return (
        f"warning: {host} can be reached from elsewhere and anyone may ask: set {TOKEN}, and put a proxy with TLS "
        "in front (docker/nginx.conf)"
    )
