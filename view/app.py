"""The explorer over HTTP: who may ask, which paths there are, and how errors are said."""

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import msgspec
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..base.errors import (
    ClipfeatError,
    CorruptStoreError,
    MissingRecordError,
    UsageError,
    reason_of,
)
from ..base.interruption import Stopped
from .explorer import Explorer, Query

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain"}
NOT_BUILT = b"<!doctype html><title>clipfeat view</title><p>The page is not built: make view-page\n"
THREADS = 8  # that answer at a time; each may read a record
MAX_FIELDS = 100  # of a query
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
NOT_KEPT = {"Cache-Control": "no-store"}


class Access:
    """Who may ask: a page of this server, by one of the two names of this machine, with the token.

    A page from elsewhere can send requests to this machine. It cannot read the token, nor send a
    Host of ours through a name of its own that leads here (DNS rebinding).
    """

    def __init__(self, port: int, token: str):
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.token = token
        self.cookie = f"clipfeat-view-{port}"  # cookies do not tell ports apart
        self._tickets: set[str] = set()

    def ticket(self) -> str:
        """Return a token that opens the page once.

        It is for the browser's command line, which others on this machine can read.
        """
        ticket = secrets.token_urlsafe(32)
        self._tickets.add(ticket)
        return ticket

    def problem(self, headers: Headers) -> str | None:
        """Return why a request is refused by where it comes from, if so."""
        if headers.getlist("host") not in [[host] for host in self.hosts]:
            return "Host is not 127.0.0.1 or localhost with the port of this server"
        origins = headers.getlist("origin")
        if origins and origins not in [[f"http://{host}"] for host in self.hosts]:
            return "Origin is another site"
        return None

    def knows(self, request: Request) -> bool:
        """Return whether a request has the token, in its cookie or in its header."""
        given = (request.cookies.get(self.cookie), request.headers.get("x-clipfeat-token"))
        return any(self._is_token(value) for value in given if value is not None)

    def admits(self, token: str) -> bool:
        """Return whether a token opens the page; a ticket does so once."""
        if token in self._tickets:
            self._tickets.discard(token)
            return True
        return self._is_token(token)

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), self.token.encode())


class Guard:
    """Refuses what `Access` does not allow, before anything else is done, and adds HEADERS."""

    def __init__(self, app: ASGIApp, access: Access):
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket is closed without an answer

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        answer = self._answer(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        problem = self._access.problem(request.headers)
        if problem is not None:
            return failure(403, problem, "E-VIEW-ORIGIN")
        if request.method not in ("GET", "HEAD"):
            return failure(405, "only GET is answered", "E-VIEW-METHOD")
        token = request.query_params.get("token")
        if request.url.path == "/" and token is not None and self._access.admits(token):
            return self._welcome(request)
        if not self._access.knows(request):
            return failure(
                403,
                "open the address that clipfeat view has printed, with its token",
                "E-VIEW-TOKEN",
            )
        return None

    def _welcome(self, request: Request) -> Response:
        """Give the browser its cookie, and send it to the same address without the token."""
        parts = request.url.query.split("&")
        rest = "&".join(part for part in parts if part.partition("=")[0] != "token")
        response = RedirectResponse(f"/?{rest}" if rest else "/", 303, NOT_KEPT)
        response.set_cookie(
            self._access.cookie, self._access.token, httponly=True, samesite="strict"
        )
        return response


def make_app(explorer: Explorer, access: Access) -> ASGIApp:
    """Return the application that answers for an explorer to those who have access."""
    limiter = CapacityLimiter(THREADS)

    def route(path: str, answer: Callable[[Query], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            query = request.url.query
            run = anyio.to_thread.run_sync  # the loop goes on while a thread waits for a disk
            return await run(_safely, answer, query, limiter=limiter, abandon_on_cancel=True)

        return Route(path, endpoint, methods=["GET"])

    def as_json(answer: Callable[[Query], dict[str, Any]]) -> Callable[[Query], Response]:
        return lambda query: json_response(answer(query))

    def image(query: Query) -> Response:
        content, kind = explorer.image(query)
        return Response(content, media_type=kind, headers=NOT_KEPT)

    routes = [route(f"/api/{name}", as_json(each)) for name, each in explorer.answers.items()]
    routes += [route("/api/image", image), *page_routes()]
    app = Starlette(routes=routes, exception_handlers={404: _not_found})
    return Guard(app, access)


def page_routes() -> list[Route]:
    """Return the paths of the page's files, which are read now."""
    files = {path.name: path.read_bytes() for path in PAGE.glob("*") if path.suffix in TYPES}
    files.setdefault("index.html", NOT_BUILT)

    def serve(name: str) -> Route:
        kind = TYPES[Path(name).suffix]

        async def endpoint(_: Request) -> Response:
            return Response(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

        return Route("/" if name == "index.html" else f"/{name}", endpoint, methods=["GET"])

    return [serve(name) for name in sorted(files)]


def _safely(answer: Callable[[Query], Response], text: str) -> Response:
    """Answer a query; an error becomes JSON with its text, its code and the id it is about."""
    image_id = None
    try:
        values = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        image_id = next(iter(values.get("id", ())), None)
        return answer(Query(values))
    except MissingRecordError as error:
        return failure(404, str(error), error.code, image_id)
    except CorruptStoreError as error:
        return failure(422, str(error), error.code, image_id)
    except UsageError as error:
        return failure(400, str(error), error.code, image_id)
    except ClipfeatError as error:
        return failure(502, str(error), error.code, image_id)
    except ValueError as error:
        if not isinstance(error, UnicodeError) and "fields" not in str(error):
            return _bug(error, image_id)
        return failure(400, str(error), "E-VIEW-QUERY", image_id)
    except OSError as error:  # a file of the store that is gone, or that may not be read
        return failure(422, f"{reason_of(error)}: {error.filename}", "E-VIEW-FILE", image_id)
    except Stopped:
        return failure(503, "clipfeat view is ending", "E-VIEW-ENDED", image_id)
    except MemoryError:
        return failure(507, "there is not enough memory for this", "E-VIEW-MEMORY", image_id)
    except Exception as error:
        return _bug(error, image_id)


def _bug(error: Exception, image_id: str | None) -> Response:
    logger.error("clipfeat view: a bug, please report it", exc_info=error)
    return failure(500, f"a bug: {type(error).__name__}: {error}", "E-VIEW-BUG", image_id)


async def _not_found(request: Request, _: Exception) -> Response:
    return failure(404, f"there is nothing at {request.url.path!r:.100}", "E-VIEW-PATH")


def json_response(content: Any, status: int = 200) -> Response:
    """Return a response of JSON; a number that is not finite is null."""
    return Response(msgspec.json.encode(content), status, NOT_KEPT, "application/json")


def failure(status: int, text: str, code: str, image_id: str | None = None) -> Response:
    """Return a response that says what is wrong."""
    about = {} if image_id is None else {"id": image_id}
    return json_response({"error": text, "code": code, **about}, status)
