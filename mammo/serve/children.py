"""Worker processes, from the side that asks: started, asked, ended when they overstep."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mammo.core.errors import DataError, MammoError
from mammo.serve.worker import LENGTHS, Header, message

SPARE: Final = Path(__file__).with_name("spare.py")
LIBRARIES: Final = {
    "votes": ("torch", "pydantic", "yaml", "safetensors.torch", "scipy.special", "PIL.Image"),
    "pictures": ("numpy", "pydantic", "yaml", "PIL.Image", "pydicom", "scipy.ndimage"),
}
START_S: Final = 120
Wanted = Callable[[], Awaitable[None]]
"""Raises where nobody waits for the answer any more."""


class BusyError(MammoError):
    """More waits than may; it is welcome a second later."""

    status = 503


class WorkerGoneError(MammoError):
    """A worker ended, or was ended, before it answered."""

    status = 503


class TooSlowError(WorkerGoneError):
    """A picture took longer than it may."""

    status = 422


class Worker:
    """A process that does what its order says: started by `start`, or by the first request that finds none."""

    def __init__(self, kind: str, order: Header | None = None) -> None:
        self.kind, self.order = kind, order or {}
        self.process: Process | None = None

    async def load(self) -> None:
        """Start a process that loads its libraries and waits for `start`; `WorkerGoneError` if it cannot."""
        command = [sys.executable, "-P", str(SPARE), *LIBRARIES[self.kind]]
        # Threads that spin starve the others; OpenBLAS takes 40 MB of address space for one of each CPU, for nothing.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"} | os.environ
        environment.pop("PYTHONPATH", None)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True, limit=2**26
            )
        except OSError as error:
            why = f"a worker cannot be started ({error}); allow more processes or memory"
            raise WorkerGoneError(why) from error

    async def start(self, order: Header) -> None:
        """Become the worker of an order; `MammoError` where the version cannot be loaded, in its own words."""
        self.order = order
        if self.process is None or self.process.returncode is not None:
            await self.load()
        line = json.dumps(order | {"kind": self.kind}).encode() + b"\n"
        header, _ = await self._exchange(line, START_S)
        if "error" in header:
            raise MammoError(header["error"])

    async def ask(self, header: Header, body: bytes = b"", seconds: float | None = 60) -> tuple[Header, bytes]:
        """Send a request and wait for the answer, before the next; a worker that ended is started again first.

        Raises:
            DataError: the request was refused.
            WorkerGoneError: there was no answer in time, or the worker ended; the next request starts another.
        """
        if self.process is None or self.process.returncode is not None:
            await self.start(self.order)
        answer, content = await self._exchange(message(header, body), seconds)
        if "error" in answer:
            raise DataError(answer["error"])
        return answer, content

    async def _exchange(self, sent: bytes, seconds: float | None) -> tuple[Header, bytes]:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(sent)
                await process.stdin.drain()
                lengths = await process.stdout.readexactly(2 * LENGTHS)
                n_header, n_body = (int.from_bytes(lengths[at : at + LENGTHS], "big") for at in (0, LENGTHS))
                header = json.loads(await process.stdout.readexactly(n_header))
                return header, await process.stdout.readexactly(n_body)
        except TimeoutError as error:
            await self.close()
            late = f"no answer within {seconds:g} s"
            if self.kind == "pictures":
                raise TooSlowError(f"{late}; send a smaller or a simpler picture") from error
            raise WorkerGoneError(f"{late}: the machine is busy; send the request again later") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise WorkerGoneError("a worker ended before it answered; send the request again") from error
        except asyncio.CancelledError:
            await self.close()  # its answer would be taken for the next one's
            raise

    async def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()


class Pool:
    """Workers of one kind, each asked one thing at a time; `most`, if any, may wait for one."""

    def __init__(self, workers: Sequence[Worker], most: int | None = None) -> None:
        self.workers, self.most, self._n_asked = list(workers), most, 0
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        for worker in workers:
            self._free.put_nowait(worker)

    async def ask(
        self, header: Header, body: bytes = b"", seconds: float | None = 60, wanted: Wanted | None = None
    ) -> tuple[Header, bytes]:
        """As `Worker.ask`, of the next that is free, if the answer is wanted then; `BusyError` where too many wait."""
        if self.most is not None and self._n_asked >= len(self.workers) + self.most:
            raise BusyError(f"at most {self.most} pictures may wait here; send yours again in a second")
        self._n_asked += 1
        try:
            worker = await self._free.get()
            try:
                if wanted is not None:
                    await wanted()
                return await worker.ask(header, body, seconds)
            finally:
                self._free.put_nowait(worker)
        finally:
            self._n_asked -= 1
