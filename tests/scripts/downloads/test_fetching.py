"""Fetching: from a server that helps, breaks off, stalls, moves, lies, is gone or comes back."""

import fcntl
import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from downloads.fetching import Archive, fetch, part_of, require_room

from common.errors import InputError
from common.images import downloading
from common.images.downloading import Patience

CONTENT = bytes(range(256)) * 4_000 + b"the end"
SIZE = len(CONTENT)
PAGE = b"<html>We have moved.</html>"


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; the first folder of the path says how."""

    asked: list[tuple[str, str | None]]

    def __init__(self, asked: list[tuple[str, str | None]], *args: object) -> None:
        self.asked = asked
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        way, given = self.path.split("/")[1], self.headers.get("Range")
        self.asked.append((way, given))
        if way == "gone":
            self.send_error(404)
        elif way == "moved":
            self.send_response(302)
            self.send_header("Location", "/good/a.tar")
            self.end_headers()
        elif way == "page":
            self.answer(200, PAGE, {"Content-Length": len(PAGE)})
        elif way == "unmeasured":
            self.answer(200, CONTENT + b"and more", {})
        elif way == "mute":
            self.rfile.read(1)  # until the other side has left
        elif way == "busy" and len(self.asked) < 3:
            self.send_error(503)
        else:
            self.answer_range(way, given)

    def answer_range(self, way: str, given: str | None) -> None:
        content = bytes(SIZE) if way == "false" else CONTENT
        start = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given else 0  # type: ignore[index]
        if way in ("rangeless", "rangeless-cut"):
            given, start = None, 0
        elif way == "elsewhere":
            start = max(start - 1, 0)
        content = content[start:]
        headers: dict[str, object] = {"Content-Length": len(content)}
        if given:
            headers["Content-Range"] = f"bytes {start}-{SIZE - 1}/{SIZE}"
        sent = content[: 400_000 if way.endswith("cut") else None]
        if way == "stalling":
            sent = content[:400_000]
        self.answer(206 if given else 200, sent, headers)
        if way == "stalling" and len(content) > len(sent):
            self.wfile.flush()
            self.rfile.read(1)

    def answer(self, status: int, content: bytes, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True


class Server:
    """What was asked of a server, and where it is."""

    def __init__(self, base: str, asked: list[tuple[str, str | None]]) -> None:
        self.base, self.asked = base, asked

    def archive(self, *ways: str, **changes: str) -> Archive:
        facts = {
            "md5": hashlib.md5(CONTENT).hexdigest(),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            **changes,
        }
        urls = tuple(f"{self.base}/{way}/a.tar" for way in ways)
        return Archive(name="a.tar", urls=urls, size=SIZE, **facts)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    asked: list[tuple[str, str | None]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, asked)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield Server(f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.3, failures=2, pause=0.01))
    running.asked.clear()
    return running


@pytest.fixture
def pauses(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited between two tries, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.3))
    monkeypatch.setattr(downloading.time, "sleep", waited.append)
    return waited


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch(server.archive("good"), tmp_path)
        assert path == tmp_path / "a.tar" and path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a.tar"]
    assert server.asked == [("good", None)]


@pytest.mark.parametrize("came", [1, SIZE // 2, SIZE - 1, SIZE])
def test_a_partial_file_is_continued(server: Server, tmp_path: Path, came: int) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:came])
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == ([("good", f"bytes={came}-")] if came < SIZE else [])


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:300_000])
    assert fetch(server.archive("rangeless"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("rangeless", "bytes=300000-")]


def test_a_broken_connection_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    assert fetch(server.archive("cut"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("cut", None), ("cut", "bytes=400000-"), ("cut", "bytes=800000-")]


def test_a_server_that_gets_no_further_is_left(server: Server, tmp_path: Path) -> None:
    archive = server.archive("rangeless-cut")
    with pytest.raises(InputError, match=r"rangeless-cut/a.tar ends after 400,000 of 1,024,007 b"):
        fetch(archive, tmp_path)
    assert len(server.asked) == 3
    assert (tmp_path / "a.tar.part").read_bytes() == CONTENT[:400_000]
    # The next server, another day, resumes from there.
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert server.asked[3:] == [("good", "bytes=400000-")]


def test_a_connection_that_stalls_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    start = time.monotonic()
    assert fetch(server.archive("stalling"), tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start < 10
    ranges = (None, "bytes=400000-", "bytes=800000-")
    assert server.asked == [("stalling", given) for given in ranges]


def test_a_server_that_says_nothing_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mute/a.tar does not answer \(timed out\); call again"):
        fetch(server.archive("mute"), tmp_path)
    assert len(server.asked) == 2


def test_a_busy_server_is_asked_again(
    server: Server, pauses: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server.archive("busy"), tmp_path).read_bytes() == CONTENT
    assert pauses == [1, 2]
    assert capsys.readouterr().out.splitlines() == [
        f"{server.base}/busy/a.tar answers 503 Service Unavailable: trying again in {n} s"
        for n in (1, 2)
    ]


def test_a_server_that_is_back_after_a_while(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses connections; before the third try it is started."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()
    servers: list[ThreadingHTTPServer] = []

    def start_at_last(seconds: float) -> None:
        if seconds > 1:
            handler = partial(Handler, server.asked)
            servers.append(ThreadingHTTPServer(address, handler))
            threading.Thread(target=servers[0].serve_forever, args=(0.02,), daemon=True).start()

    monkeypatch.setattr(downloading, "PATIENCE", Patience())
    monkeypatch.setattr(downloading.time, "sleep", start_at_last)
    archive = Server(f"http://127.0.0.1:{address[1]}", []).archive("good")
    try:
        assert fetch(archive, tmp_path).read_bytes() == CONTENT
    finally:
        servers[0].shutdown()
        servers[0].server_close()
    assert len(servers) == 1


def test_one_minute_without_a_server_is_borne(
    server: Server, pauses: list[float], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Server(f"http://127.0.0.1:{free.getsockname()[1]}", [])
        with pytest.raises(
            InputError, match=r"good/a.tar does not answer \(.*refused\); call again"
        ):
            fetch(nobody.archive("good"), tmp_path)
    assert pauses == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftq://host/a.tar", "unknown url type"),
        ("file:/nowhere/a.tar", "No such file"),
        ("http://me:secret@host/a.tar", "names and passwords are not sent"),
        ("http://a host/a.tar", "URL can't contain control characters"),
    ],
)
def test_what_no_patience_mends_is_told_at_once(
    pauses: list[float], server: Server, tmp_path: Path, url: str, reason: str
) -> None:
    archive = replace(server.archive(), urls=(url,))
    with pytest.raises(InputError, match=reason) as caught:
        fetch(archive, tmp_path)
    assert "secret" not in str(caught.value)
    assert pauses == []


def test_keys_in_an_address_are_not_told(server: Server, tmp_path: Path) -> None:
    archive = replace(server.archive(), urls=(f"{server.base}/gone/a.tar?key=secret",))
    with pytest.raises(InputError, match="gone/a.tar answers 404") as caught:
        fetch(archive, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_longer_file_is_no_part_of_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT + b"x")
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("good", None)]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_another_content_is_not_kept(server: Server, tmp_path: Path, kind: str) -> None:
    found = hashlib.new(kind, CONTENT).hexdigest()
    archive = server.archive("good", **{kind: "0" * len(found)})
    with pytest.raises(InputError, match=rf"\({kind.upper().replace('A2', 'A-2')} {found}\)"):
        fetch(archive, tmp_path)
    with pytest.raises(InputError, match=r"came with another content .* was deleted"):
        fetch(server.archive("false"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("gone", "answers 404 Not Found"),
        ("page", "has 27 bytes instead of 1024007"),
        ("elsewhere", "sends another part than the bytes from 300,000 of 1,024,007"),
    ],
)
def test_a_useless_answer_costs_nothing(
    server: Server, tmp_path: Path, way: str, reason: str
) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:300_000])
    with pytest.raises(InputError) as raised:
        fetch(server.archive(way), tmp_path)
    assert str(raised.value) == (
        f"a.tar could not be fetched: {server.base}/{way}/a.tar {reason}; the 300,000 bytes that "
        "came are kept, so call again"
    )
    assert (tmp_path / "a.tar.part").read_bytes() == CONTENT[:300_000]


def test_an_endless_answer_is_cut(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sends more than 1,024,007 bytes"):
        fetch(server.archive("unmeasured"), tmp_path)
    assert part_of(tmp_path / "a.tar").stat().st_size <= SIZE
    assert not (tmp_path / "a.tar").exists()


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(CONTENT[:5])
    assert fetch(server.archive("moved"), tmp_path).read_bytes() == CONTENT
    assert server.asked == [("moved", "bytes=5-"), ("good", "bytes=5-")]


def test_another_server_is_asked(server: Server, tmp_path: Path) -> None:
    assert fetch(server.archive("gone", "page", "good"), tmp_path).read_bytes() == CONTENT
    assert [way for way, _ in server.asked] == ["gone", "page", "good"]


def test_a_wrong_file_of_that_name_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a.tar is not the published file \(4 bytes instead of"):
        fetch(server.archive("good"), tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == b"mine" and server.asked == []


def test_two_downloads_do_not_mix(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "a.tar.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"a.tar.part is in use"):
            fetch(server.archive("good"), tmp_path)
    assert fetch(server.archive("good"), tmp_path).read_bytes() == CONTENT


def test_room_is_compared_with_what_is_free(tmp_path: Path) -> None:
    require_room(tmp_path, 1, "a byte")
    with pytest.raises(InputError, match=r"has no room for a lot: 1,000,000,000,000,000,000 bytes"):
        require_room(tmp_path, 10**18, "a lot")
