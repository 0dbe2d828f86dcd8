"""One owner, one recipe, nothing left lying about."""

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import Training

from common.errors import InputError
from common.recipe import Focus, Optimization
from common.runs.environment import describe_environment
from common.runs.folder import RunFolder
from common.storage import read_json, to_json

DESCRIPTION: dict[str, Any] = {
    "stage": "pretrain",
    "recipe": {"network": "resnet18", "optimization": {"lr": 0.1, "milestones": (2, 3)}},
    "seed": 0,
}


def finished(path: Path) -> Path:
    """Make a run folder with a checkpoint."""
    RunFolder(path, DESCRIPTION).close()
    (path / "last.pt").touch()
    return path


OWNER = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from common.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), {"stage": "pretrain"})
worker = os.fork()  # such as a process that reads images
if worker:
    print(worker, flush=True)
time.sleep(60)
"""


def test_a_folder_has_one_owner_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    repository = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=repository,
    ) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        try:
            with pytest.raises(InputError, match="is in use by another run"):
                RunFolder(tmp_path, {"stage": "pretrain"})
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
        try:
            os.kill(worker, 0)  # is still there, and owns nothing
            RunFolder(tmp_path, {"stage": "pretrain"}).close()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_the_recipe_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", DESCRIPTION)
    assert json.loads((tmp_path / "a" / "b" / "recipe.json").read_text()) == {
        "stage": "pretrain",
        "recipe": {"network": "resnet18", "optimization": {"lr": 0.1, "milestones": [2, 3]}},
        "seed": 0,
    }
    assert (folder.last, folder.best) == (folder.path / "last.pt", folder.path / "best.pt")
    folder.close()


def test_the_same_recipe_goes_on(tmp_path: Path) -> None:
    finished(tmp_path)
    written = (tmp_path / "recipe.json").stat().st_mtime_ns
    folder = RunFolder(tmp_path, DESCRIPTION)
    assert folder.checkpoint_exists()
    assert (tmp_path / "recipe.json").stat().st_mtime_ns == written  # a full disk cannot empty it
    folder.close()


def test_never_refuses_a_folder_with_a_run(tmp_path: Path) -> None:
    RunFolder(tmp_path, DESCRIPTION, "never").close()
    RunFolder(tmp_path, DESCRIPTION, "never").close()  # no checkpoint yet
    (tmp_path / "last.previous.pt").touch()
    with pytest.raises(InputError, match="holds a run already"):
        RunFolder(tmp_path, DESCRIPTION, "never")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"stage": "detect", "seed": 1}, "stage was pretrain, is now detect"),
        (
            {"recipe": {"network": "resnet18", "optimization": {"lr": 0.1, "milestones": (2,)}}},
            r"recipe\.optimization\.milestones was \[2, 3\], is now \[2\]",
        ),
        ({"backbone": "b.safetensors"}, r"backbone was None, is now b\.safetensors"),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    finished(tmp_path)
    with pytest.raises(InputError, match=rf"holds another run \({message}\)"):
        RunFolder(tmp_path, DESCRIPTION | change)
    assert read_json(tmp_path / "recipe.json")["seed"] == 0
    RunFolder(tmp_path, DESCRIPTION).close()  # the refusal has let the folder go


@dataclass(frozen=True, kw_only=True)
class Newer:
    """A recipe that got a field since."""

    lr: float
    field: int = 3


@pytest.mark.parametrize(("now", "same"), [(3, True), (4, False)])
def test_a_field_that_an_older_version_lacks_was_at_its_default(
    tmp_path: Path, now: int, same: bool
) -> None:
    RunFolder(tmp_path, {"recipe": {"lr": 0.1}}).close()
    (tmp_path / "last.pt").write_bytes(b"")
    description = {"recipe": Newer(lr=0.1, field=now)}
    if same:
        folder = RunFolder(tmp_path, description)
        assert json.loads((tmp_path / "recipe.json").read_text()) == {"recipe": {"lr": 0.1}}
        folder.keep_description()  # the checkpoint was found to fit
        folder.close()
        kept = json.loads((tmp_path / "recipe.json").read_text())
        assert kept == {"recipe": {"lr": 0.1, "field": 3}}
    else:
        with pytest.raises(InputError, match=r"recipe\.field was 3, is now 4"):
            RunFolder(tmp_path, description)


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_checkpoint_without_its_recipe_is_left_alone(tmp_path: Path, resume: str) -> None:
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match=r"holds a (checkpoint|run)"):
        RunFolder(tmp_path, {"seed": 0}, resume)
    assert not (tmp_path / "recipe.json").exists()


def test_a_recipe_without_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    RunFolder(tmp_path, DESCRIPTION).close()
    RunFolder(tmp_path, DESCRIPTION | {"seed": 5}).close()
    assert read_json(tmp_path / "recipe.json")["seed"] == 5


def test_stale_temporaries_go(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.123.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    RunFolder(tmp_path, DESCRIPTION).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.tmp",
        "recipe.json",
        "run.lock",
    ]


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_the_way(tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(InputError, match="is a file: choose another --out"):
        RunFolder(path, DESCRIPTION)


def test_environment_names_versions_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/pretrain/__main__.py", "train", "x"])
    environment = json.loads(to_json(describe_environment("cpu", 2)))
    assert environment["command"] == "python -m pretrain train x"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/focused-pretrain", "train", "x"])
    assert describe_environment("cpu", 2)["command"] == "focused-pretrain train x"
    assert environment["python"] == platform.python_version()
    assert torch.__version__.startswith(environment["torch"])
    assert all(environment[name] for name in ("torchvision", "albumentations", "numpy"))
    assert (environment["device"], environment["world_size"]) == ("cpu", 2)


def test_json_of_a_dataclass() -> None:
    assert json.loads(to_json(Focus(after="layer3")))["gamma"] == [0.3, 0.6]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[]", "no JSON obj")],
)
def test_unreadable_json(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"recipe\.json .*{message}"):
        read_json(tmp_path / "recipe.json")


def test_how_a_step_is_shared_out_may_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accumulation, as the number of ranks does; nothing else."""
    before = Training(Optimization(lr=0.1, batch_size=8, epochs=2, accumulate=4))
    now = Training(replace(before.optimization, accumulate=1))
    RunFolder(tmp_path, {"recipe": before}).close()
    (tmp_path / "last.pt").touch()
    RunFolder(tmp_path, {"recipe": now}).close()
    assert "continues with 1 micro-batches on a rank instead of 4" in capsys.readouterr().out
    with pytest.raises(InputError, match="optimization.lr was 0.1, is now 0.2"):
        RunFolder(tmp_path, {"recipe": Training(replace(now.optimization, lr=0.2))})
