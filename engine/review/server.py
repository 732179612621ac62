"""The server of a review: one page and its pictures, for one browser on this machine.

It listens on 127.0.0.1 only, and answers nobody who does not know the token in the page's address. Other sites that
are open in the browser do not know it; beside that, requests have to name this server as their host, which keeps off
names that were made to point here, and as their origin where they name one. Nothing that a client sends becomes part of
a path: images are asked for by their number in the run.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sys
import threading
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

from pc_engine.errors import ImageError, PcEngineError, UsageError, system_reason
from pc_engine.review.changes import parse_change
from pc_engine.review.pictures import LONGEST_SIDE, Size
from pc_engine.review.session import ReviewSession

HOST = "127.0.0.1"
#: Bytes of the largest change, twice what its most pointers take.
MAX_BODY = 131_072
# Seconds that a connection may be silent for.
_PATIENCE = 60
_WEB_PORT = 80
_LAST_PORT = 65_535
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)


class ReviewServer(ThreadingHTTPServer):
    """Serves a `ReviewSession`; ``serve_forever`` does so until ``shutdown``.

    Parameters
    ----------
    session
        The run under review.
    port
        0 takes a free one.

    Raises
    ------
    UsageError
        If the port cannot be used.

    Attributes
    ----------
    token
        What the address of the page has that nobody else knows.
    opening_url
        An address that leads to the page once: a browser's command line can be read by other users of the machine.
    """

    daemon_threads = True
    # Elsewhere it lets a server begin where one has just ended; Windows takes it for leave to share the port.
    allow_reuse_address = os.name == "posix"
    # Connections that wait to be taken: with the usual five a busy machine reset some of those of a page of pictures.
    request_queue_size = 128

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(32)
        self._opening: str | None = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        if not 0 <= port <= _LAST_PORT:
            raise UsageError(f"There is no port {port}: choose one of up to {_LAST_PORT} with --port.")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be used ({system_reason(error)}): choose another with --port."
            ) from None
        self.opening_url = f"http://{HOST}:{self.server_port}/{self._opening}/"

    def take_opening(self, key: str) -> bool:
        """Whether ``key`` is that of `opening_url`, asked for the first time."""
        with self._lock:
            is_it = self._opening is not None and _is_same(key, self._opening)
            if is_it:
                self._opening = None
        return is_it

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that a browser may know this server by; of the web's own port it leaves the number out."""
        port = self.server_port
        bare = (HOST, "localhost") if port == _WEB_PORT else ()
        return (f"{HOST}:{port}", f"localhost:{port}", *bare)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away, as it does when pictures scroll out of view."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _is_same(key: str, secret: str) -> bool:
    return hmac.compare_digest(key.encode("utf-8", "replace"), secret.encode("ascii"))


class _RefusedError(Exception):
    """A request that is not served; the message is a sentence for the page."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "pc-engine"
    sys_version = ""
    timeout = _PATIENCE
    # A page's pieces are small; together they make fewer packets.
    wbufsize = 1 << 16

    @property
    def _review(self) -> ReviewServer:
        return cast(ReviewServer, self.server)

    def log_message(self, *_: Any) -> None:
        """Print no line for each request."""

    def do_GET(self) -> None:
        """Answer a request, of whatever kind."""
        try:
            token, route = self._asked_for()
            if self.command == "GET" and route == "" and self._review.take_opening(token):
                place = ("Location", f"/{self._review.token}/")
                self._begin(HTTPStatus.SEE_OTHER, "text/plain", place, ("Content-Length", "0"))
                return
            if not _is_same(token, self._review.token):
                raise _RefusedError(HTTPStatus.FORBIDDEN, "The address lacks the token: use the one that was printed.")
            if self.command == "POST":
                self._post(route)
            elif self.command in ("GET", "HEAD"):
                self._get(route)
            else:
                raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "The server does not take this kind of request.")
        except _RefusedError as refusal:
            # What it may still send is not read, and would be taken for the next request.
            self.close_connection = True
            self._send_json(refusal.status, {"error": str(refusal)})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_GET  # noqa: N815

    def _asked_for(self) -> tuple[str, str]:
        """Return the token and what is asked for below it, of a request that comes from where one may."""
        origins = self.headers.get_all("Origin", [])
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self._review.hosts:
            raise _RefusedError(HTTPStatus.FORBIDDEN, "The request names another server than this one.")
        if any(origin not in {f"http://{host}" for host in self._review.hosts} for origin in origins):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "The request comes from another site.")
        try:
            _, token, route = urlsplit(self.path).path.split("/", 2)
        except ValueError:
            token, route = "", ""
        return token, route

    def _get(self, route: str) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body is not read
        size, _, number = route.partition("/")
        if route == "":
            self._send_page(self._review.session.page())
        elif size in LONGEST_SIDE and number.isascii() and number.isdecimal() and len(number) < 12:
            self._send_picture(size, int(number))
        else:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _post(self, route: str) -> None:
        if route != "change":
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The request is not of the type application/json.")
        body = self._body()
        try:
            reviewed = self._review.session.change(parse_change(body))
        except IndexError:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "The run has no such image.") from None
        except ValueError as error:
            raise _RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        except PcEngineError as error:
            raise _RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None
        self._send_json(HTTPStatus.OK, {"reviewed": reviewed})

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "The request does not say how long it is.")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request has more than {MAX_BODY:,} bytes.")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request is shorter than it says.")
        return body

    def _send_page(self, pieces: Iterable[str]) -> None:
        # Its length is not known before it is made: the end of the connection is its end.
        self.close_connection = True
        headers = (("Connection", "close"), ("Content-Security-Policy", "frame-ancestors 'none'"))
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8", *headers)
        if self.command != "HEAD":
            self.wfile.writelines(piece.encode("utf-8") for piece in pieces)

    def _send_picture(self, size: Size, number: int) -> None:
        try:
            picture = self._review.session.picture(number, size)
        except IndexError:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "The run has no such image.") from None
        except ImageError as error:
            raise _RefusedError(HTTPStatus.NOT_FOUND, str(error)) from None
        self._send(HTTPStatus.OK, "image/webp", picture)

    def _send_json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode("ascii"))

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        policy = ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        self._begin(status, content_type, policy, ("Content-Length", str(len(body))))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, content_type: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", content_type), *_HEADERS, *headers):
            self.send_header(name, value)
        self.end_headers()
