"""Downloads from servers that do what servers do, and from broken and hostile ones: whole and right, or not at all."""

import hashlib
import http.server
import socket
import threading
import time
from functools import partial

import numpy as np
import pytest

import scfoundry as sf
from scfoundry.model import _download, _pretrained
from scfoundry.model._download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256, SIZE = hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)


class Server(http.server.BaseHTTPRequestHandler):
    """A file server on loopback; the path of a request names what it does wrong."""

    protocol_version = "HTTP/1.1"
    requests: list = []  # noqa: RUF012

    def do_GET(self):
        asked = self.headers.get("Range")
        start = int(asked[6:-1]) if asked else 0
        self.requests.append(start)
        self.close_connection = True
        try:
            getattr(self, self.path.strip("/").split("?")[0])(start)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has seen enough

    def send(self, content, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def weights(self, start):
        told = {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
        self.send(CONTENT[start:], 206 if start else 200, **told)

    def breaks(self, start):
        self.send(CONTENT[start : start + 100_000], 206 if start else 200, length=SIZE - start)

    def without_ranges(self, start):
        self.send(CONTENT)

    def wrong_range(self, start):
        self.send(CONTENT[50_000:], 206, Content_Range=f"bytes 50000-{SIZE - 1}/{SIZE}")

    def whole_as_range(self, start):
        self.send(CONTENT, 206, Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}")

    def page(self, start):
        self.send(b"<html>Log in</html>")

    def other_content(self, start):
        self.send(bytes(SIZE))

    def too_long(self, start):
        self.send(CONTENT, length=100 * SIZE)

    def too_short(self, start):
        self.send(CONTENT, length=1000)

    def without_length(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def flood(self, start):
        self.without_length(CONTENT)
        while True:
            self.wfile.write(CONTENT)

    def ends_early(self, start):
        self.without_length(CONTENT[:1000])

    def length_of_text(self, start):
        self.send(CONTENT, length="many")

    def negative_length(self, start):
        self.send(CONTENT, length=-5)

    def chunked(self, start, first=b"10000\r\nabc"):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(first)

    def endless_chunks(self, start):
        self.chunked(start, b"")
        while True:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def no_chunks(self, start):
        self.chunked(start, b"zzzz\r\nabc")

    def not_http(self, start):
        self.wfile.write(b"hello\r\n\r\n")

    def long_header(self, start):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")

    def silent(self, start):
        self.connection.shutdown(socket.SHUT_RDWR)

    def missing(self, start):
        self.send_error(404)

    def no_such_range(self, start):
        self.send_error(416)

    def drips(self, start):
        self.without_length(b"")
        for i in range(100):
            self.wfile.write(CONTENT[i : i + 1])
            time.sleep(0.05)

    def redirect(self, start):
        self.send(b"", 302, Location=self.path.split("?", 1)[1])

    def log_message(self, *args):
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch):
    handler = type("Handler", (Server,), {"requests": []})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=partial(httpd.serve_forever, poll_interval=0.01))
    thread.start()
    monkeypatch.setattr(_download, "TIMEOUT_SECONDS", 1)
    handler.port = httpd.server_port
    handler.url = f"http://127.0.0.1:{httpd.server_port}/"
    yield handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.bin"


def part_of(target):
    return target.with_name("weights.bin.part")


def test_a_download_is_checked_and_kept(server, target):
    assert download(server.url + "weights", target, SHA256, SIZE).read_bytes() == CONTENT
    download(server.url + "weights", target, SHA256, SIZE)
    assert server.requests == [0]


def test_a_broken_download_resumes(server, target):
    with pytest.raises(ConnectionError, match=r"failed after 100,000 of 300,000 bytes.*again to resume"):
        download(server.url + "breaks", target, SHA256, SIZE)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:100_000]
    assert download(server.url + "weights", target, SHA256, SIZE).read_bytes() == CONTENT
    assert server.requests == [0, 100_000]


def test_a_server_without_ranges_sends_all_again(server, target):
    with pytest.raises(ConnectionError):
        download(server.url + "breaks", target, SHA256, SIZE)
    assert download(server.url + "without_ranges", target, SHA256, SIZE).read_bytes() == CONTENT


@pytest.mark.parametrize("lie", ["wrong_range", "whole_as_range", "other_content", "page"])
def test_lies_about_ranges_end_in_a_new_start(server, target, lie):
    with pytest.raises(ConnectionError):
        download(server.url + "breaks", target, SHA256, SIZE)
    with pytest.raises(ValueError, match=r"Nothing was kept. Run the same call again"):
        download(server.url + lie, target, SHA256, SIZE)
    assert not target.exists()
    assert not part_of(target).exists()
    assert download(server.url + "weights", target, SHA256, SIZE).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("page", "has 19 bytes, expected 300,000"),
        ("too_long", "has 30,000,000 bytes, expected"),
        ("too_short", "has 1,000 bytes, expected"),
        ("other_content", "has sha256 .* expected"),
        ("flood", "goes on after 300,000 bytes"),
        ("endless_chunks", "goes on after 300,000 bytes"),
    ],
)
def test_what_cannot_be_the_file_is_not_kept(server, target, wrong, message):
    with pytest.raises(ValueError, match=message):
        download(server.url + wrong, target, SHA256, SIZE)
    assert {path.suffix for path in target.parent.iterdir()} <= {".lock"}


@pytest.mark.parametrize(
    "broken",
    ["ends_early", "chunked", "no_chunks", "not_http", "long_header", "silent", "missing", "no_such_range", "drips"],
)
def test_a_broken_server_says_how_to_go_on(server, target, broken):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"Run the same call again to resume, or place the file at .* by hand"):
        download(server.url + broken, target, SHA256, SIZE)
    assert time.monotonic() - start < 4
    assert not target.exists()
    assert not part_of(target).exists() or part_of(target).stat().st_size < SIZE


@pytest.mark.parametrize("unclear", ["length_of_text", "negative_length"])
def test_without_a_length_the_size_decides(server, target, unclear):
    assert download(server.url + unclear, target, SHA256, SIZE).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "to", ["file:///etc/hostname", "ftp://127.0.0.1:1/x", "data:text/plain,hello", "/redirect?/redirect", "http://[x/"]
)
def test_redirects_lead_nowhere_else(server, target, to):
    with pytest.raises(ConnectionError, match=r"again to resume, or place the file"):
        download(f"{server.url}redirect?{to}", target, SHA256, SIZE)
    assert not target.exists()


def test_another_host_may_have_the_file_but_no_other(server, target):
    elsewhere = f"http://localhost:{server.port}/"
    with pytest.raises(ValueError, match="has sha256"):
        download(f"{server.url}redirect?{elsewhere}other_content", target, SHA256, SIZE)
    moved = f"{server.url}redirect?{elsewhere}weights"
    assert download(moved, target, SHA256, SIZE).read_bytes() == CONTENT


def test_a_secure_address_is_not_left():
    from urllib.error import HTTPError
    from urllib.request import Request

    redirects = _download._Redirects()
    request = Request("https://a.org/weights")
    with pytest.raises(HTTPError, match=r"redirected from https to http://a\.org/"):
        redirects.redirect_request(request, None, 302, "", {}, "http://a.org/weights")
    assert redirects.redirect_request(request, None, 302, "", {}, "https://b.org/weights").host == "b.org"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "data:,x", "/etc/hostname"])
def test_only_servers_are_asked(target, url):
    with pytest.raises(ValueError, match="no address of a server"):
        download(url, target, SHA256, SIZE)


def test_a_complete_part_is_used(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    assert download(server.url + "missing", target, SHA256, SIZE).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("left", [CONTENT + b"more", bytes(1000)], ids=["too long", "of another file"])
def test_a_wrong_part_is_not_built_upon(server, target, left):
    target.parent.mkdir()
    part_of(target).write_bytes(left)
    try:
        download(server.url + "weights", target, SHA256, SIZE)
    except ValueError:
        assert not target.exists()
        download(server.url + "weights", target, SHA256, SIZE)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["cut", "changed"])
def test_a_damaged_file_is_fetched_again(server, target, damaged):
    target.parent.mkdir()
    target.write_bytes(damaged)
    assert download(server.url + "weights", target, SHA256, SIZE).read_bytes() == CONTENT


def test_calls_at_once_share_a_file(server, target):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(download(server.url + "weights", target, SHA256, SIZE)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [target] * 4
    assert target.read_bytes() == CONTENT
    assert server.requests == [0]


def test_a_folder_that_cannot_be_written_to(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConnectionError, match=r"failed after 0 of 300,000 bytes: .*by hand"):
        download(server.url + "weights", tmp_path / "file" / "weights.bin", SHA256, SIZE)


def test_an_unreachable_server_says_how_to_go_on(target):
    with pytest.raises(ConnectionError, match=r"by hand"):
        download("http://127.0.0.1:9/weights.bin", target, SHA256, SIZE)


def test_registered_downloads_arrive_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sf.settings, "cache_dir", tmp_path / "cache")
    entry = _pretrained.Weights(
        name="remote",
        model="cellplm",
        parameters=0,
        megabytes=0.3,
        licence="MIT",
        citation="",
        trained_on="",
        source="download",
        files={"weights.bin": _pretrained.Remote(server.url + "weights", SHA256, SIZE)},
    )
    monkeypatch.setitem(_pretrained.REGISTRY, "remote", entry)
    assert not sf.model.list_pretrained().loc["remote", "available"]
    assert (_pretrained.locate("remote") / "weights.bin").read_bytes() == CONTENT
    assert sf.model.list_pretrained().loc["remote", "available"]
