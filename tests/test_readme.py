"""What the READMEs name is there, their commands have these flags, their Python blocks run."""

import importlib
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torchvision.models as models
from detectors import write_detector_run
from PIL import Image

from common.weights.backbone import save_backbone

ROOT = Path(__file__).parents[1]
FILES = [ROOT / name for name in ("README.md", "common/method/README.md", "pretrain/README.md")]
FILES += [ROOT / name / "README.md" for name in ("common", "detect", "scripts", "tests")]
FILES += [ROOT / name for name in ("pretrain/evidence.md", "pretrain/scale.md", "tests/cases.md")]
README = FILES[0].read_text()
CARD = FILES[1]  # tests/common/method/test_card.py runs its blocks
BLOCKS = [
    block
    for file in FILES
    if file != CARD
    for block in re.findall(r"^```python\n(.*?)^```", file.read_text(), flags=re.M | re.S)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = models.resnet50(weights=None, num_classes=200).state_dict()
    (tmp_path / "runs").mkdir()
    save_backbone(weights, {"architecture": "resnet50"}, tmp_path / "runs" / "fd.safetensors")
    if "import detect" in block:
        write_detector_run(tmp_path / "runs" / "voc")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "a README", "exec"), {"__name__": "readme"})


def test_there_are_blocks() -> None:
    assert any("insert_after" in block for block in BLOCKS)
    assert any("timm" in block for block in BLOCKS)


def test_the_front_page_is_short() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_linked_files_and_headings_exist(file: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", file.read_text()):
        target = file.parent / link if link else file
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def anchors(file: Path) -> set[str]:
    """Return what links to the headings of a page are called."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[tuple[str, ...]]:
    """Return every call of ours in the shell blocks, as words."""
    found = []
    for file in FILES:
        text = file.read_text()
        for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S):
            for line in block.replace("\\\n", " ").replace("$train", "").splitlines():
                words = shlex.split(line, comments=True)
                if "=" in (words or ["="])[0]:
                    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
                if words[:2] == ["python", "-m"] and len(words) > 2:
                    found.append(tuple(words[2:]))
                elif words[:1] == ["python"] and words[1] != "-m":
                    found.append(tuple(words[1:]))
    return sorted(set(found))


@cache
def help_of(*program: str) -> str:
    """Return the help of a command, as it prints it in this process."""
    file = ROOT / program[0]
    file = file / "__main__.py" if file.is_dir() else file
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as shown,
        pytest.raises(SystemExit) as stop,
    ):
        patch.setattr(sys, "argv", [str(file), *program[1:], "--help"])
        patch.setattr(sys, "path", [str(file.parent), *sys.path])
        runpy.run_path(str(file), run_name="__main__")
    assert not stop.value.code, (program, shown.getvalue())
    return shown.getvalue()


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words)[:60])
def test_commands_have_these_flags(command: tuple[str, ...]) -> None:
    program = command[0]
    assert program in ("pretrain", "detect") or (ROOT / program).exists()
    if program == "scripts/bench.py":
        assert command[1] in help_of(program)
        return
    if program in ("pretrain", "detect") and command[1] == "train":
        known = importlib.import_module(f"{program}.recipes").RECIPES
        assert command[2] in known
    depth = 3 if command[1] in ("train", "figure") else 2
    if program in ("scripts/make_shards.py", "scripts/keep_on_s3.py", "scripts/mutate.py"):
        depth = 1
    mine = command[: command.index("--")] if "--" in command else command
    flags = [word for word in mine[depth:] if word.startswith("--")]
    shown = help_of(*command[:depth])
    for flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown), flag


def test_there_are_commands() -> None:
    assert len(commands()) > 20


def test_named_scripts_exist() -> None:
    for file in FILES:
        for script in set(re.findall(r"(?<![\w/])(?:\./)?(scripts/[\w.]+)", file.read_text())):
            assert (ROOT / script).exists(), script


def test_named_tests_exist() -> None:
    for file in FILES:
        for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", file.read_text()):
            text = (ROOT / path).read_text()
            assert f"def {test}(" in text if test else text, test
