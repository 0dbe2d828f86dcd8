"""The licence of every package that an installation brings along, as those packages state it.

python scripts/licences.py > scripts/licences.md     of those that are installed here
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

PROJECT = "focused-dropout"
EXTRAS = ("", "tensorboard", "onnx")
"""What an installation may hold; trackers and what tests need are not followed."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"extra == ['\"]([^'\"]*)['\"]")


def needed() -> dict[str, Distribution]:
    """Return the packages that are installed for the project, by name, and what they need."""
    found: dict[str, Distribution] = {}
    waiting = [line for line in distribution(PROJECT).requires or () if _wanted(line, EXTRAS)]
    while waiting:
        name = _plain(waiting.pop())
        if name in found or name == PROJECT:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another system, or a newer Python has it built in
            continue
        waiting += [line for line in found[name].requires or () if _wanted(line, ("",))]
    return dict(sorted(found.items()))


def _wanted(requirement: str, extras: tuple[str, ...]) -> bool:
    extra = _EXTRA.search(requirement)
    return (extra[1] if extra else "") in extras


def _plain(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def licence(package: Distribution) -> str:
    """Return what a package says of its licence: an SPDX expression, classifiers, or a text."""
    facts = package.metadata
    if expression := facts.get_all("License-Expression"):
        return str(expression[0])
    classifiers = [c for c in facts.get_all("Classifier") or () if c.startswith("License ::")]
    named = [c.rpartition(" :: ")[2] for c in classifiers]
    text = "".join(map(str, facts.get_all("License") or ())).strip()
    if text and "\n" not in text and len(text) < 60:
        return text
    return ", ".join(named) or (text.splitlines()[0] if text else "not stated")


def table() -> str:
    """Return the licences as Markdown."""
    lines = [f"| {name} | {licence(package)} |" for name, package in needed().items()]
    return "\n".join(["| package | licence |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
