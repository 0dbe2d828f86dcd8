"""The demo's own words: steps, a bar for the whole, what a step takes by its twin."""

import os
import re
import subprocess
from pathlib import Path

DEMO = Path(__file__).parents[2] / "scripts" / "demo.sh"


def test_steps_disk_and_times_are_announced(tmp_path: Path) -> None:
    """With a python that only says what it was asked to do, and nothing to set up."""
    scripts = tmp_path / "repository" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "demo.sh").write_text(DEMO.read_text())
    (scripts / "setup.sh").write_text("set -euo pipefail\n")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nprintf 'ran %s\\nmore\\n' \"$*\"\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(scripts / "demo.sh"), str(tmp_path / "out")],
        env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    heads = re.findall(r"== \[([#.]{30})\] step (\d) of 6 at \d:\d\d: (.*)", done.stdout)
    assert [(bar.count("#"), int(number)) for bar, number, _ in heads] == [
        (5 * (number - 1), number) for number in range(1, 7)
    ]
    twins = {number: re.search(r"about \d:\d\d as step (\d)", text) for _, number, text in heads}
    assert {number: found[1] for number, found in twins.items() if found} == {"3": "2", "5": "4"}
    before = done.stdout[: done.stdout.index("== [")]
    assert "6 minutes" in before and re.search(r"Disk: .* GB in .*6 GB in \.venv", before)
    assert re.search(r"== \[#{30}\] done in \d:\d\d: open \S+/out/report\.html\n$", done.stdout)
    ran = [line.split()[1:5] for line in done.stdout.splitlines() if line.startswith("ran ")]
    commands = [" ".join(words[1:3]) for words in ran]
    assert commands == [
        f"--out {tmp_path / 'out'}/data",
        *["pretrain train", "pretrain export"] * 2,
        *["detect train", "detect evaluate"] * 2,
        "detect report",
    ]
