"""What stands before every road: the service's names, security headers, and of `/v1` the token and a line of log."""

import hmac
import json
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammo.core.errors import MammoError
from mammo.serve.service import Service

log = logging.getLogger("mammo.serve")
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

PROBES: Final = ("/healthz", "/readyz", "/metrics")
"""May be asked by a service's address, which no page of another site can have as its name."""


def checked_hosts(names: Sequence[str]) -> list[str]:
    """Names that `Host` may have; `MammoError` for one that it never has."""
    for name in names:
        if not re.fullmatch(r"(\*\.)?[^*/:]+|\[[^*/\]]+\]", name):
            raise MammoError(
                f"--allowed-host: must be a name such as voting.example or *.example, got {name!r}; leave out scheme, "
                "port and path"
            )
    return list(names)


class Outermost:
    """The host and security headers of every answer; of `/v1` the token, a line of log and the count of what got none.

    `hosts` are names, `*.` and the end of one, or `*` for any.
    """

    def __init__(self, app: ASGIApp, service: Service, hosts: Sequence[str]) -> None:
        self.app, self.service, self.hosts = app, service, [host.lower() for host in hosts]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        is_voting, answer, headers = scope["path"].startswith("/v1/"), self.app, Headers(scope=scope)
        if not self._is_named(headers.get("host", ""), by_address=scope["path"] in PROBES):
            why = "host: must be a name of this service; start it with --allowed-host NAME"
            answer = JSONResponse({"error": why}, 400)
        elif is_voting and not self._is_known(headers.get("authorization", "")):
            why = "authorization: must be `Bearer TOKEN` with this service's token; ask its operator"
            answer = JSONResponse({"error": why}, 401, headers={"WWW-Authenticate": "Bearer"})
        try:
            await answer(scope, receive, sending)
        finally:
            if is_voting:
                line = {
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(time.perf_counter() - started, 4),
                    "method": scope["method"],
                    "client": scope["client"][0] if scope.get("client") else None,
                }
                log.info(json.dumps(line))
                if status >= 400:
                    self.service.measures.refused.labels(str(status)).inc()

    def _is_named(self, host: str, by_address: bool) -> bool:
        name = re.sub(r":\d*$", "", host.lower())
        if by_address:
            with suppress(ValueError):
                return bool(ip_address(name.strip("[]")))
        return any(name == one or (one.startswith("*") and name.endswith(one[1:])) for one in self.hosts)

    def _is_known(self, given: str) -> bool:
        # Some clients send a token in Latin-1, in which headers are read here, others in UTF-8.
        sent, wanted = (given.encode(), given.encode("latin-1")), f"Bearer {self.service.token}".encode()
        return not self.service.token or any(hmac.compare_digest(one, wanted) for one in sent)
