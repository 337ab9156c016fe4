"""What every answer of the service goes through, whatever its road."""

import hmac
import json
import logging
import time
from contextlib import suppress
from typing import Final

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammo.serve.service import Service

log = logging.getLogger("mammo.serve")
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Outermost:
    """Security headers on every answer, the token of `/v1`, a line of log; nobody hears of a client that hangs up."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

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

        token, given = self.service.token, Headers(scope=scope).get("authorization", "")
        with suppress(ClientDisconnect):
            if (
                token
                and scope["path"].startswith("/v1/")
                and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
            ):
                denied = JSONResponse(
                    {
                        "error": "authorization: must be `Bearer TOKEN` with this service's token; ask its operator"
                    },
                    401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await denied(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        if scope["path"].startswith("/v1/"):
            client = scope["client"][0] if scope.get("client") else None
            line = {
                "path": scope["path"],
                "status": status,
                "seconds": round(time.perf_counter() - started, 4),
            }
            log.info(json.dumps(line | {"method": scope["method"], "client": client}))
