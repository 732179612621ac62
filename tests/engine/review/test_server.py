from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import UsageError
from pc_engine.review import ReviewServer, ReviewSession
from pc_engine.review.server import MAX_BODY
from pc_engine.runs.corrections import read_corrections

JSON = {"Content-Type": "application/json"}
CHANGE = json.dumps({"index": 0, "count": 5, "pointers": []})


@pytest.fixture
def server(run: Path) -> Iterator[ReviewServer]:
    with ReviewServer(ReviewSession(run)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Answered:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def ask(
    server: ReviewServer,
    path: str,
    *,
    method: str = "GET",
    body: str | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Answered:
    """Ask for ``path`` below the token, or below another one."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    try:
        connection.request(method, f"/{server.token if token is None else token}/{path}", body, dict(headers or {}))
        return Answered(connection.getresponse())
    finally:
        connection.close()


def ask_raw(server: ReviewServer, *lines: str) -> bytes:
    """Send a request as it stands, and return all that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=120) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_listens_on_this_machine_only_and_nobody_guesses_its_address(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 40
    assert server.url == f"http://127.0.0.1:{server.server_port}/{server.token}/"


def test_the_page_is_served_with_what_keeps_it_to_itself(server: ReviewServer) -> None:
    answer = ask(server, "")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"Review of run" in answer.body
    for name, value in (
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("X-Frame-Options", "DENY"),
        ("Content-Security-Policy", "frame-ancestors 'none'"),
    ):
        assert answer.headers[name] == value
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_pictures_are_made_from_the_photos_of_the_run(server: ReviewServer) -> None:
    for size in ("thumbnail", "photo"):
        answer = ask(server, f"{size}/1")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/webp")
        assert answer.body.startswith(b"RIFF")
    assert "cannot be read" in ask(server, "photo/2").error
    assert "not an image" in ask(server, "photo/3").error
    assert ask(server, "photo/4").status == 404


def test_a_change_is_saved_before_the_answer(server: ReviewServer, run: Path) -> None:
    answer = ask(server, "change", method="POST", body=CHANGE, headers=JSON)
    assert (answer.status, json.loads(answer.body)) == (200, {"reviewed": 1})
    assert [correction.count for correction in read_corrections(run).values()] == [5]
    withdrawn = ask(server, "change", method="POST", body='{"index": 0, "withdraw": true}', headers=JSON)
    assert json.loads(withdrawn.body) == {"reviewed": 0}
    assert read_corrections(run) == {}


@pytest.mark.parametrize("token", ["", "x", "%00", "é", "a" * 5000, "."])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_without_the_token_everything_is_forbidden(server: ReviewServer, run: Path, token: str, method: str) -> None:
    for path in ("", "photo/0", "change"):
        quoted = token.encode().decode("latin-1")
        assert ask_raw(
            server,
            f"{method} /{quoted}/{path} HTTP/1.1",
            f"Host: 127.0.0.1:{server.server_port}",
            "Content-Type: application/json",
            f"Content-Length: {len(CHANGE)}",
        ).startswith(b"HTTP/1.1 403 ")
    assert read_corrections(run) == {}


def test_the_address_that_opens_a_browser_leads_to_the_page_once(server: ReviewServer) -> None:
    key = server.opening_url.split("/")[-2]
    assert server.token not in server.opening_url
    assert ask(server, "photo/0", token=key).status == 403
    assert ask(server, "", token=key, headers={"Host": "example.org"}).status == 403
    opened = ask(server, "", token=key)
    assert (opened.status, opened.headers["Location"]) == (303, f"/{server.token}/")
    again = ask(server, "", token=key)
    assert (again.status, again.error) == (403, "The address lacks the token: use the one that was printed.")


def test_a_part_of_the_token_is_not_enough(server: ReviewServer) -> None:
    for token in (server.token[:-1], server.token + "x", server.token.swapcase()):
        assert ask(server, "photo/0", token=token).status == 403
    assert ask_raw(server, "GET / HTTP/1.0", f"Host: localhost:{server.server_port}").startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", ""])
def test_another_host_is_forbidden(server: ReviewServer, host: str) -> None:
    """A name that was made to point to this machine brings its own name along (DNS rebinding)."""
    answer = ask(server, "", headers={"Host": host.format(port=server.server_port)})
    assert (answer.status, answer.error) == (403, "The request names another server than this one.")


def test_no_host_and_two_hosts_are_forbidden(server: ReviewServer) -> None:
    line, host = f"GET /{server.token}/ HTTP/1.1", f"Host: 127.0.0.1:{server.server_port}"
    assert ask_raw(server, line, "Connection: close").startswith(b"HTTP/1.1 403 ")
    assert ask_raw(server, line, host, "Host: example.org", "Connection: close").startswith(b"HTTP/1.1 403 ")
    assert ask_raw(server, line, host, "Connection: close").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("origin", ["http://example.org", "null", "https://127.0.0.1:{port}", "http://127.0.0.1", ""])
def test_another_origin_is_forbidden(server: ReviewServer, run: Path, origin: str) -> None:
    headers = {"Origin": origin.format(port=server.server_port)}
    assert ask(server, "", headers=headers).status == 403
    answer = ask(server, "change", method="POST", body=CHANGE, headers={**JSON, **headers})
    assert (answer.status, answer.error) == (403, "The request comes from another site.")
    assert read_corrections(run) == {}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_origin_is_admitted(server: ReviewServer, name: str) -> None:
    own = f"{name}:{server.server_port}"
    headers = {**JSON, "Origin": f"http://{own}", "Host": own}
    assert ask(server, "change", method="POST", body=CHANGE, headers=headers).status == 200


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.0.0.1:80"])
def test_browsers_leave_the_port_of_the_web_out(server: ReviewServer, name: str) -> None:
    listening = server.server_address[1]
    server.server_port = 80
    connection = http.client.HTTPConnection("127.0.0.1", listening, timeout=120)
    try:
        headers = {**JSON, "Origin": f"http://{name}", "Host": name}
        connection.request("POST", f"/{server.token}/change", CHANGE, headers)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        *("photo/../../../../etc/passwd", "photo/%2e%2e/%2e%2e/etc/passwd", "../etc/passwd", "photo//etc/passwd"),
        *("photo/0/../1", "photo/-1", "photo/+1", "photo/1.0", "photo/٣", "photo/1e0", "photo/" + "9" * 5000),
        *("photo/", "photo", "photo/0/", "change", "rows", "photo\\0", "corrections.jsonl", "photo/a.png", "/photo/0"),
    ],
)
def test_nothing_but_numbers_of_images_leads_to_a_file(server: ReviewServer, path: str) -> None:
    reply = ask_raw(
        server,
        f"GET /{server.token}/{path.encode().decode('latin-1')} HTTP/1.1",
        f"Host: localhost:{server.server_port}",
        "Connection: close",
    )
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in reply


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_do_nothing(server: ReviewServer, method: str) -> None:
    assert ask(server, "change", method=method, headers=JSON).status == 405


def test_a_change_is_posted_to_one_place_only(server: ReviewServer) -> None:
    assert ask(server, "photo/0", method="POST", body=CHANGE, headers=JSON).status == 404
    assert ask(server, "", method="POST", body=CHANGE, headers=JSON).status == 404


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_site_is_no_change(server: ReviewServer, run: Path, kind: str) -> None:
    """Those types are sent across sites without asking first."""
    assert ask(server, "change", method="POST", body=CHANGE, headers={"Content-Type": kind}).status == 415
    assert read_corrections(run) == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "not JSON"),
        ('{"index": 0, "count": -1, "pointers": []}', "whole number"),
        ('{"index": 0, "count": 1, "pointers": [[0, NaN, 1, 1, 1, 1]]}', "not finite"),
        ('{"index": 0, "count": 1, "pointers": [[0, 401.5, 1, 1, 1, 1]]}', "outside the picture"),
        ('{"index": 3, "count": 1, "pointers": []}', "failed in the run"),
    ],
)
def test_bad_changes_are_refused_in_a_sentence(server: ReviewServer, run: Path, body: str, reason: str) -> None:
    answer = ask(server, "change", method="POST", body=body, headers=JSON)
    assert answer.status == 422
    assert reason in answer.error
    assert read_corrections(run) == {}


def test_a_change_of_an_image_that_is_not_there(server: ReviewServer) -> None:
    body = '{"index": 4, "count": 1, "pointers": []}'
    assert ask(server, "change", method="POST", body=body, headers=JSON).status == 404


def test_large_changes_are_refused_unread(server: ReviewServer) -> None:
    assert ask(server, "change", method="POST", body=" " * MAX_BODY + CHANGE, headers=JSON).status == 413
    assert ask(server, "change", method="POST", headers={**JSON, "Content-Length": "9" * 30}).status == 413
    assert (
        ask(server, "change", method="POST", body=" " * (MAX_BODY - len(CHANGE)) + CHANGE, headers=JSON).status == 200
    )


@pytest.mark.parametrize("length", ["-1", "1.5", "many", ""])
def test_a_change_has_to_say_how_long_it_is(server: ReviewServer, length: str) -> None:
    assert ask(server, "change", method="POST", headers={**JSON, "Content-Length": length}).status == 411


def test_chunks_are_not_taken(server: ReviewServer) -> None:
    headers = {**JSON, "Transfer-Encoding": "chunked"}
    assert ask(server, "change", method="POST", body=b"0\r\n\r\n", headers=headers).status == 411


def test_a_full_disk_is_said(server: ReviewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pc_engine.runs.corrections.os.fsync", full)
    answer = ask(server, "change", method="POST", body=CHANGE, headers=JSON)
    assert answer.status == 500
    assert "No space left on device" in answer.error


def test_what_follows_a_refused_request_is_not_taken_for_the_next(server: ReviewServer, run: Path) -> None:
    own = f"Host: 127.0.0.1:{server.server_port}"
    smuggled = f"POST /{server.token}/change HTTP/1.1\r\n{own}\r\nContent-Type: application/json\r\n"
    smuggled += f"Content-Length: {len(CHANGE)}\r\n\r\n{CHANGE}"
    for line in ("POST /x/change", f"GET /{server.token}/photo/0"):
        reply = ask_raw(server, f"{line} HTTP/1.1", own, f"Content-Length: {len(smuggled)}", "", smuggled)
        assert reply.count(b"HTTP/1.1 ") == 1
    assert read_corrections(run) == {}


def test_many_ask_at_once(server: ReviewServer, run: Path) -> None:
    def change(k: int) -> None:
        body = json.dumps({"index": k % 2, "count": k, "pointers": []})
        assert ask(server, "change", method="POST", body=body, headers=JSON).status == 200

    threads = [threading.Thread(target=change, args=(k,)) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((run / "corrections.jsonl").read_text().splitlines()) == 24
    assert len(read_corrections(run)) == 2


def test_connections_wait_while_the_server_is_busy(run: Path) -> None:
    server = ReviewServer(ReviewSession(run))  # which takes none yet
    waiting = [socket.create_connection(("127.0.0.1", server.server_port), timeout=120) for _ in range(60)]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for connection in waiting:
            with connection:
                connection.sendall(f"GET /{server.token}/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                assert connection.recv(5) == b"HTTP/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_connection_serves_several_requests(server: ReviewServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    for _ in range(3):
        connection.request("GET", f"/{server.token}/thumbnail/0")
        response = connection.getresponse()
        assert response.status == 200
        assert response.read()
        assert not response.will_close
    connection.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_does_not_exist_is_said(run: Path, port: int) -> None:
    with pytest.raises(UsageError, match=rf"There is no port {port}: choose one of up to 65535 with --port\."):
        ReviewServer(ReviewSession(run), port)


def test_a_port_that_is_taken_is_said(server: ReviewServer, run: Path) -> None:
    with pytest.raises(UsageError, match=rf"Port {server.server_port} cannot be used"):
        ReviewServer(ReviewSession(run), server.server_port)


def test_nothing_is_printed_for_requests(server: ReviewServer, capfd: Any) -> None:
    ask(server, "")
    ask(server, "", token="x")
    assert capfd.readouterr() == ("", "")
