"""Who may ask: Host, Origin and token, and a server of its own process that ends cleanly."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from explorers import PORT, TOKEN, client_of, started
from stores import make_store

OURS = f"127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("view") / "s", {"i": np.ones((2, 2, 4))})


@pytest.fixture
def ask(store):
    """Ask with exactly these headers; return status, headers and body."""
    client = client_of(store).http
    del client.headers["x-clipfeat-token"]

    def ask(path: str, method: str = "GET", **headers: str | bytes):
        pairs = ((k.replace("_", "-"), v) for k, v in headers.items())
        named = [(k.encode(), v.encode() if isinstance(v, str) else v) for k, v in pairs]
        answer = client.request(method, path, headers=named)
        client.cookies.clear()
        return answer

    return ask


def code(answer) -> str:
    return answer.json()["code"]


class TestAccess:
    @pytest.mark.parametrize("path", ["/", "/api/session", "/api/image?store=a&id=i", "/nothing"])
    def test_nothing_is_answered_without_the_token(self, ask, path):
        assert (ask(path).status_code, code(ask(path))) == (403, "E-VIEW-TOKEN")
        wrong = ask(path, x_clipfeat_token=TOKEN + "x")
        assert (wrong.status_code, code(wrong)) == (403, "E-VIEW-TOKEN")
        assert code(ask(path, cookie=f"clipfeat-view-{PORT}=x")) == "E-VIEW-TOKEN"
        assert code(ask(path, x_clipfeat_token="\u00fc".encode())) == "E-VIEW-TOKEN"

    @pytest.mark.parametrize(
        "host",
        ["", "evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "localhost",
         f"127.0.0.1.evil.example:{PORT}", f"LOCALHOST.evil:{PORT}", f"[::1]:{PORT}",
         f"0.0.0.0:{PORT}", f"127.0.0.1:{PORT}@evil.example"],
    )  # fmt: skip
    def test_another_host_is_refused_even_with_the_token(self, ask, host):
        answer = ask("/api/session", host=host, x_clipfeat_token=TOKEN)
        assert (answer.status_code, code(answer)) == (403, "E-VIEW-ORIGIN")
        assert code(ask(f"/?token={TOKEN}", host=host)) == "E-VIEW-ORIGIN"

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", f"https://{OURS}", "http://127.0.0.1", f"{OURS}"]
    )
    def test_a_page_of_another_origin_is_refused_even_with_the_token(self, ask, origin):
        answer = ask("/api/session", origin=origin, x_clipfeat_token=TOKEN)
        assert (answer.status_code, code(answer)) == (403, "E-VIEW-ORIGIN")

    @pytest.mark.parametrize("host", [OURS, f"localhost:{PORT}"])
    def test_its_own_page_is_answered(self, ask, host):
        answer = ask("/api/session", host=host, origin=f"http://{host}", x_clipfeat_token=TOKEN)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_nothing_can_be_changed(self, ask, method):
        answer = ask("/api/session", method, x_clipfeat_token=TOKEN)
        assert (answer.status_code, code(answer)) == (405, "E-VIEW-METHOD")

    def test_the_address_with_the_token_gives_a_cookie_and_keeps_the_rest(self, ask):
        answer = ask(f"/?store=a&id=caf%C3%A9%26+x&token={TOKEN}&show=pca")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/?store=a&id=caf%C3%A9%26+x&show=pca"
        name, _, rest = answer.headers["set-cookie"].partition("=")
        value, *flags = rest.split("; ")
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(flags)
        assert ask("/api/session", cookie=f"{name}={value}").status_code == 200
        assert ask(f"/?token={TOKEN}").headers["location"] == "/"
        assert code(ask("/?token=wrong")) == "E-VIEW-TOKEN"
        assert code(ask(f"/api/session?token={TOKEN}")) == "E-VIEW-TOKEN"

    def test_a_ticket_opens_the_page_once(self):
        from clipfeat.view.app import Access

        access = Access(PORT, TOKEN)
        ticket = access.ticket()
        assert [access.admits(each) for each in (ticket, ticket, "", TOKEN, TOKEN)] == [
            True, False, False, True, True,
        ]  # fmt: skip

    @pytest.mark.parametrize("path", ["/", "/api/session", "/api/none", "/../../etc/passwd"])
    def test_every_answer_says_what_a_browser_may_do_with_it(self, ask, path):
        for answer in (ask(path), ask(path, x_clipfeat_token=TOKEN)):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "access-control-allow-origin" not in answer.headers

    def test_too_many_fields_are_an_error_and_a_bug_is_no_traceback(self, store, caplog):
        client = client_of(store)
        answer = client.http.get("/api/ids?store=a&" + "&".join(["x=1"] * 101))
        assert (answer.status_code, code(answer)) == (400, "E-VIEW-QUERY")
        explorer_bug = client.http.get("/api/ids?store=a&search=%ff%fe")
        assert explorer_bug.status_code == 200  # decoded with replacement letters


class TestServer:
    def test_it_answers_on_this_machine_alone_until_ctrl_c(self, store):
        with started(store, "--port", 0) as (process, port, token):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            with closing(connection):
                connection.request("GET", "/api/ids?store=a", headers={"X-Clipfeat-Token": token})
                answer = connection.getresponse()
                found = json.loads(answer.read())
                assert [each["id"] for each in found["ids"]] == ["i"]
                assert answer.getheader("server") is None
                connection.request("GET", "/api/ids?store=a", headers={"Host": "evil.example"})
                assert connection.getresponse().read().startswith(b'{"error"')
                self._ends(process, port)

    @staticmethod
    def _ends(process, port):
        for name in {str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None)}:
            if not name.startswith("127."):
                with pytest.raises((ConnectionError, TimeoutError)):
                    socket.create_connection((name, port), timeout=2)
        process.send_signal(signal.SIGINT)  # with a connection still open
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=2)

    def test_sigterm_ends_it_too(self, store):
        with started(store, "--port", 0) as (process, _, _):
            process.terminate()
            _, err = process.communicate(timeout=20)
            assert (process.returncode, err) == (0, "")

    def test_a_port_that_is_taken_is_one_line(self, store):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            command = [
                sys.executable,
                "-m",
                "clipfeat.cli",
                "view",
                str(store),
                "--port",
                str(port),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "--port 0" in done.stderr
        assert "[E-VIEW-PORT]" in done.stderr

    def test_two_runs_have_two_tokens(self, store):
        with started(store, "--port", 0) as (_, _, one), started(store, "--port", 0) as (_, _, two):
            assert one != two
            assert len(one) >= 43  # 32 random bytes
