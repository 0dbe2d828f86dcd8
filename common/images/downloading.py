"""Getting a file from a server or a command that breaks off, falls silent, comes back or lies."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

_BLOCK = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_PASSING = {408, 429, 500, 502, 503, 504}
"""Answers of a server that is overloaded or restarting; the others are final."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a source may fail before it is given up."""

    silence: float = 30.0
    """Seconds without a byte after which a connection counts as broken."""
    failures: int = 7
    """In a row, none of which got further than before; then it is given up."""
    pause: float = 1.0
    """Seconds after the first of them; twice as many after each further one."""


PATIENCE = Patience()
"""With a server that refuses connections: one minute."""


class NotServedError(Exception):
    """A source does not give what it should; the message follows its name.

    Attributes:
        again: Whether it may do so later.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def download(
    urls: Sequence[str],
    file: BinaryIO,
    size: int | None = None,
    *,
    most: int | None = None,
    label: str | None = None,
) -> None:
    """Write a file as one of its sources gives it, trying again where that can help.

    Of a file whose size is known what came is kept, and the rest asked for.

    Args:
        urls: Where it lies, the best place first: what `urllib` opens, or pipe:COMMAND for a shell
            command that writes it to its output.
        file: Open for writing; holds the beginning of the file, or nothing.
        size: Bytes, where known.
        most: The most bytes that it may have, where not.
        label: Name of a bar; None shows none.

    Raises:
        NotServedError: If no source gives it. What came is in the file.
        OSError: If the file cannot be written.
    """
    left, reasons = list(urls), dict.fromkeys(urls, "")
    furthest, failures = file.seek(0, os.SEEK_END), 0
    while True:
        for url in list(left):
            try:
                _append(url, file, size, most if size is None else size, label)
                return
            except NotServedError as error:
                reasons[url] = f"{shown(url)} {error}"
                if not error.again:
                    left.remove(url)
        came = file.seek(0, os.SEEK_END)
        failures = 0 if came > furthest else failures + 1
        furthest = max(came, furthest)
        text = "; ".join(reasons.values())
        if not left or failures >= PATIENCE.failures:
            raise NotServedError(text, again=bool(left))
        if failures:
            pause = PATIENCE.pause * 2 ** (failures - 1)
            # The line's end with it: threads fetch side by side.
            print(f"{text}: trying again in {pause:g} s\n", end="", flush=True)
            time.sleep(pause)


def shown(url: str) -> str:
    """Name a source in a message, without what may be a password."""
    if url.startswith("pipe:"):
        return "its command"
    return re.sub("//[^/]*@", "//", url.partition("?")[0])


def _append(
    url: str, file: BinaryIO, size: int | None, most: int | None, label: str | None
) -> None:
    """Append what is missing until the end, or until the source breaks off."""
    start = file.seek(0, os.SEEK_END)
    if start and start == size:
        return
    if size is None or start > size or url.startswith("pipe:"):
        start = _cut(file, 0)
    with contextlib.ExitStack() as stack:
        blocks: Iterable[bytes]
        if url.startswith("pipe:"):
            done, end = 0, size
            blocks = stack.enter_context(contextlib.closing(_run(url.removeprefix("pipe:"))))
        else:
            response = stack.enter_context(_open(url, start))
            done, end = _extent(response, start, size)
            _cut(file, done)
            blocks = _receive(response)
        # disable=None: no bar where nobody watches.
        bar = stack.enter_context(
            tqdm(
                desc=label,
                total=end,
                initial=done,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None if label else True,
            )
        )
        for block in blocks:
            done += len(block)
            if most is not None and done > most:
                raise NotServedError(f"sends more than {most:,} bytes", again=False)
            file.write(block)
            bar.update(len(block))
    if end is not None and done < end:
        raise NotServedError(f"ends after {done:,} of {end:,} bytes", again=True)


def _cut(file: BinaryIO, size: int) -> int:
    file.seek(size)
    file.truncate()
    return size


# ---- servers ----


def _open(url: str, start: int) -> HTTPResponse:
    try:
        request = Request(url, headers={"User-Agent": "focused-dropout"})
        if "@" in (request.host or ""):
            raise InvalidURL("names and passwords are not sent: give pipe:COMMAND")
        if start:
            request.add_header("Range", f"bytes={start}-")
        response: HTTPResponse = urlopen(request, timeout=PATIENCE.silence)
    except HTTPError as error:
        error.close()
        again = error.code in _PASSING
        raise NotServedError(f"answers {error.code} {error.reason}", again=again) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        hint = ": give pipe:COMMAND" if str(reason).startswith("unknown url type") else ""
        raise NotServedError(
            f"does not answer ({reason}{hint})", again=_may_pass(reason)
        ) from error
    return response


def _may_pass(reason: object) -> bool:
    """Tell what a network may recover from; not a wrong URL, certificate or name."""
    if isinstance(reason, socket.gaierror):
        return reason.errno != socket.EAI_NONAME
    lasting = (str, ValueError, InvalidURL, FileNotFoundError, PermissionError, IsADirectoryError)
    return not isinstance(reason, lasting)  # a bad certificate is a ValueError


def _extent(response: HTTPResponse, start: int, size: int | None) -> tuple[int, int | None]:
    """Return where an answer begins and ends: a server that ignores ranges begins at 0."""
    if response.status == 206:
        place = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if place is None or int(place[1]) != start or int(place[2]) != size:
            raise NotServedError(
                f"sends another part than the bytes from {start:,} of {size:,}", again=False
            )
        return start, size
    length = response.headers.get("Content-Length")
    if size is None:
        return 0, int(length) if length and length.isdecimal() else None
    if length not in (None, str(size)):  # such as a page that says that the server has moved
        raise NotServedError(f"has {length} bytes instead of {size}", again=False)
    return 0, size


def _receive(response: HTTPResponse) -> Generator[bytes]:
    try:
        while block := response.read1(_BLOCK):
            yield block
    except TimeoutError as error:
        raise _silent() from error
    except (OSError, HTTPException) as error:
        raise NotServedError(f"breaks off ({error})", again=True) from error


def _silent() -> NotServedError:
    return NotServedError(f"sends nothing for {PATIENCE.silence:g} s", again=True)


# ---- commands ----


def _run(command: str) -> Generator[bytes]:
    """Yield what a shell command writes; its group of processes ends with this, however it ends."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        output = process.stdout.fileno()
        waiting = select.poll()
        waiting.register(output)
        try:
            while True:
                if not waiting.poll(PATIENCE.silence * 1000):
                    raise _silent()
                block = os.read(output, _BLOCK)
                if not block:
                    break
                yield block
            code = process.wait(PATIENCE.silence)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise _silent() from None
            raise
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            last = f" ({lines[-1][:200]})" if lines else ""
            again = code not in (126, 127)  # there is no such command
            raise NotServedError(f"ends with exit code {code}{last}", again=again)
