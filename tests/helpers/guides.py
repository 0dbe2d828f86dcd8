"""The commands of a README's guide, run as they stand there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from common.images import loading

ROOT = Path(__file__).parents[2]


def lines_of(package: str, heading: str) -> list[list[str]]:
    """Return the words of each command in the first shell block below a heading."""
    text = (ROOT / package / "README.md").read_text()
    below = text.split(f"\n## {heading}\n", 1)[1]
    block = re.search(r"^```bash\n(.*?)^```", below, flags=re.M | re.S)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    assert all(words[:3] == ["python", "-m", package] for words in commands)
    return [words[3:] for words in commands]


def follow(
    package: str,
    heading: str,
    command: ModuleType,
    call: Callable[..., tuple[int, str, str]],
    patch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """Run the commands in order, in this process; return what each printed, by its first word."""
    patch.setattr(loading, "cores_of_a_rank", lambda: 0)  # no processes that read
    printed: dict[str, str] = {}
    for words in lines_of(package, heading):
        code, out, err = call(command, *words)
        assert code == 0, (words, err)
        printed[words[0]] = printed.get(words[0], "") + out + err
    return printed
