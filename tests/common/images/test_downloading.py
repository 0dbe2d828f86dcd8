"""Commands that write a file to their output: cut, silent, failing, endless, or done."""

import io
import time
from pathlib import Path

import pytest

from common.images import downloading
from common.images.downloading import NotServedError, Patience, download


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.5, failures=3, pause=0.01))


def fetched(command: str, size: int | None = None, most: int | None = None) -> bytes:
    file = io.BytesIO()
    download([f"pipe:{command}"], file, size, most=most)
    return file.getvalue()


def test_what_a_command_writes_is_the_file() -> None:
    assert fetched("printf abc; sleep 0.1; printf de") == b"abcde"
    assert fetched("true") == b""
    assert fetched("head -c 1000000 /dev/zero", size=1_000_000) == bytes(1_000_000)


def failing_twice(tmp_path: Path, failure: str) -> str:
    """A command that fails in its first two calls, after half of its output."""
    count = tmp_path / "calls"
    return f"echo >> {count}; printf abc; [ $(wc -l < {count}) -gt 2 ] || {failure}; printf def"


@pytest.mark.parametrize("failure", ["exit 1", "exit 0", "sleep 30", "kill -KILL $$"])
def test_a_command_that_fails_is_run_again(tmp_path: Path, failure: str) -> None:
    start = time.monotonic()
    assert fetched(failing_twice(tmp_path, failure), size=6) == b"abcdef"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("printf ab; exit 3", "its command ends with exit code 3"),
        ("echo first >&2; echo no such bucket >&2; exit 1", r"exit code 1 \(no such bucket\)"),
        ("printf ab", "its command ends after 2 of 6 bytes"),
        ("sleep 30", "its command sends nothing for 0.5 s"),
        ("exec >&-; sleep 30", "its command sends nothing for 0.5 s"),
        ("printf 'abcdef and more'", "its command sends more than 6 bytes"),
    ],
)
def test_what_is_told_of_a_command(command: str, reason: str) -> None:
    with pytest.raises(NotServedError, match=reason) as caught:
        fetched(f"{command} # PASSWORD", size=6)
    assert "PASSWORD" not in str(caught.value)


def test_a_command_that_does_not_exist_is_tried_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotServedError, match=r"exit code 127 \(.*not found\)"):
        fetched("no-such-command-anywhere")
    assert capsys.readouterr().out == ""


def test_all_processes_of_a_silent_command_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.3, failures=1))
    mark = tmp_path / "alive"
    with pytest.raises(NotServedError, match="sends nothing"):
        fetched(f"(sleep 1; touch {mark}) | cat", size=6)
    time.sleep(1)
    assert not mark.exists()


def test_an_endless_command_is_cut(tmp_path: Path) -> None:
    with pytest.raises(NotServedError, match="sends more than 1,000 bytes"):
        fetched("cat /dev/zero", most=1_000)
