"""The page in headless Chromium, driven over its debugging pipe: null-ended JSON on fd 3 and 4."""

import fcntl
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium to open the page")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
    --disable-background-networking --disable-component-update --disable-sync
    --remote-debugging-pipe""".split()
SCHEMES = ("light", "dark")


class Browser:
    """One tab of a headless Chromium, and what its console said."""

    def __init__(self, profile: Path) -> None:
        (its_input, self._out), (self._in, its_output) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (its_input, its_output)]
        dup, silent = os.POSIX_SPAWN_DUP2, (os.devnull, os.O_WRONLY, 0)
        self._process = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=[
                (dup, ends[0], 3),
                (dup, ends[1], 4),
                (os.POSIX_SPAWN_OPEN, 1, *silent),
                (os.POSIX_SPAWN_OPEN, 2, *silent),
            ],
            setpgroup=0,
        )
        for end in (its_input, its_output, *ends):
            os.close(end)
        self._received = b""
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.events: list[dict] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _receive(self) -> dict:
        while b"\0" not in self._received:
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError("the browser ended")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, expression: str):
        """The value of a JavaScript expression, which the page's policy does not concern."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, page: Path, width: int = 1200, scheme: str = "light") -> None:
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=wanted)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def press(self, key: str, code: str, text: str) -> None:
        """A key, as a person's hand would: synthetic events do not activate buttons."""
        number = {"Enter": 13, " ": 32, "Tab": 9}[key]
        known = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def complaints(self) -> list[dict]:
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in bad]

    def close(self) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        for end in (self._in, self._out):
            os.close(end)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def page(written) -> Path:
    return written[2][0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_complains_every_image_loads_and_nothing_sticks_out(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert browser.complaints() == []
    assert browser.run("document.images.length") == 21
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")


def test_a_complaint_would_be_seen(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text("utf-8")
    broken.write_text(text.replace("</main>", "<script>alert(1)</script></main>"), "utf-8")
    browser.open(broken)
    (complaint,) = browser.complaints()
    assert "Content Security Policy" in complaint["params"]["entry"]["text"]


TABLE = "[...document.querySelectorAll('table')].find(t => t.caption.textContent.includes('{}'))"
AP = TABLE.format("AP by class, 11-point")


def classes(browser: Browser) -> list[str]:
    return browser.run(f"[...{AP}.rows].slice(1).map(row => row.cells[0].textContent)")


def sorting(browser: Browser) -> list[str | None]:
    return browser.run(f"[...{AP}.tHead.rows[0].cells].map(c => c.getAttribute('aria-sort'))")


def test_a_click_on_a_head_sorts(browser, page):
    browser.open(page)
    total = "All classes (mAP)"
    browser.run(f"{AP}.querySelectorAll('button')[4].click()")  # AP of the second run
    assert classes(browser) == ["cat", "dog", "emu", total]
    assert sorting(browser) == [None, None, None, None, "descending", None]
    browser.run(f"{AP}.querySelectorAll('button')[4].click()")
    assert classes(browser) == ["dog", "cat", "emu", total]  # a gap stays last
    assert sorting(browser)[4] == "ascending"
    browser.run(f"{AP}.querySelectorAll('button')[0].click()")
    assert classes(browser) == ["cat", "dog", "emu", total]
    assert sorting(browser) == ["ascending", None, None, None, None, None]
    assert browser.complaints() == []


def test_keys_sort_and_reach_every_head(browser, page):
    browser.open(page)
    browser.run(f"{AP}.querySelectorAll('button')[0].focus()")
    browser.press("Enter", "Enter", "\r")
    assert sorting(browser)[0] == "ascending"
    browser.press(" ", "Space", " ")
    assert sorting(browser)[0] == "descending"
    assert classes(browser)[:3] == ["emu", "dog", "cat"]
    browser.press("Tab", "Tab", "")
    browser.press("Enter", "Enter", "\r")
    assert sorting(browser)[:2] == [None, "descending"]
    assert classes(browser)[:3] in (["cat", "dog", "emu"], ["cat", "emu", "dog"])


# Of every element with a text of its own, the contrast of its colour with what is behind it.
CONTRASTS = """
(() => {
  const parse = c => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
                       return [r, g, b, a]; };
  const over = (f, g) => [0, 1, 2].map(i => f[i] * f[3] + g[i] * (1 - f[3]));
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => e ? over(parse(getComputedStyle(e).backgroundColor), behind(e.parentElement))
                        : [255, 255, 255];
  document.querySelectorAll("details").forEach(d => d.open = true);
  return [...document.body.querySelectorAll("*")]
    .filter(e => e.tagName !== "SCRIPT")
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const style = getComputedStyle(e), ground = behind(e);
      const colour = parse(e instanceof SVGElement ? style.fill : style.color);
      const [a, b] = [light(over(colour, ground)), light(ground)].sort((x, y) => x - y);
      return [(b + 0.05) / (a + 0.05), e.tagName, e.textContent.slice(0, 40)];
    });
})()
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_has_the_contrast_of_wcag_aa(browser, page, scheme):
    browser.open(page, scheme=scheme)
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) > 300
    assert {"text", "TD", "TH", "P", "BUTTON"} <= {tag for _, tag, _ in contrasts}
    assert min(contrasts)[0] >= 4.5, min(contrasts)
