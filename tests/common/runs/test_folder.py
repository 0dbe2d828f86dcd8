"""One owner, one recipe, nothing left lying about."""

import json
import os
import platform
import re
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
from common.runs.folder import RunFolder, read_description
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
from common.runs.folder import RunFolder, read_description
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
        (
            {"recipe": {"network": "vgg", "optimization": 0}},
            r"recipe\.network was resnet18, .* vgg",
        ),
        ({"recipe": None}, r"recipe was \{.*\}\}, is now None"),
        ({"data": "x" * 100}, f"data was None, is now {'x' * 100}"),
        ({"data": "x" * 101}, rf"data was None, is now {'x' * 100}\.\.\."),
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


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"recipe": None},
        {"recipe": 3},
        {"recipe": []},
        {"recipe": {"optimization": {"lr": 10**400, "batch_size": 8, "epochs": 2}}},
        {"recipe": {"optimization": None}},
        {"recipe": {"network": "resnet18"}},
    ],
)
def test_a_recipe_that_is_none_of_this_version_is_another(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """Refused where there is a checkpoint, else replaced."""
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    now = {"recipe": Training(Optimization(lr=0.1, batch_size=8, epochs=2))}
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match=r"holds another run \(recipe.* was .*, is now"):
        RunFolder(tmp_path, now)
    (tmp_path / "last.pt").unlink()
    RunFolder(tmp_path, now).close()
    assert read_json(path)["recipe"]["optimization"]["lr"] == 0.1


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
    written = "last.pt best.pt metrics.jsonl recipe.json environment.json certificate.json"
    for name in f"{written} non_finite.json training_images.txt".split():
        (tmp_path / f".{name}.123.tmp").touch()
    others = [".last.pt.123", ".notes.1.tmp", "last.pt.tmp", "notes.tmp"]
    for name in others:
        (tmp_path / name).touch()
    RunFolder(tmp_path, DESCRIPTION).close()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "recipe.json", "run.lock"}


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_the_way(tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run" if below else tmp_path / "file"
    with pytest.raises(InputError, match="is a file: choose another --out"):
        RunFolder(path, DESCRIPTION)


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used .File name too long.: choose a shorter"):
        RunFolder(tmp_path / ("x" * 300), DESCRIPTION)


def test_what_a_run_was_is_read(tmp_path: Path) -> None:
    recipe = Training(Optimization(lr=0.1, batch_size=8, epochs=2, milestones=(1,)))
    RunFolder(tmp_path, {"stage": "detect", "name": "toy", "seed": 5, "recipe": recipe}).close()
    assert read_description(tmp_path, "detect", Training) == ("toy", 5, recipe)
    other = "is no run of `python -m pretrain train`: give the folder of one"
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))} {re.escape(other)}$"):
        read_description(tmp_path, "pretrain", Training)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": None}, "'name'"),
        ({"seed": None}, "'seed'"),
        ({"recipe": None}, "'recipe'"),
        ({"recipe": 3}, "'int' object is not iterable"),
        ({"recipe": {"optimisation": {}}}, "Training has no field optimisation"),
        ({"recipe": {"optimization": {"lr": -1, "batch_size": 8, "epochs": 2}}}, "lr must be"),
        ({"recipe": {"optimization": {"lr": 10**400, "batch_size": 8, "epochs": 2}}}, "too large"),
        ({"recipe": {"x" * 999: 1}}, f"Training has no field {'x' * 300}"[:300]),
    ],
)
def test_what_a_run_was_does_not_fit(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """A field set to None here is left out."""
    recipe = {"optimization": {"lr": 0.1, "batch_size": 8, "epochs": 2}}
    whole = {"stage": "detect", "name": "toy", "seed": 5, "recipe": recipe} | change
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
    message = rf"^{re.escape(str(path))} does not fit this version, train again: .*{told}"
    with pytest.raises(InputError, match=message) as caught:
        read_description(tmp_path, "detect", Training)
    if "xxx" in told:
        assert str(caught.value).endswith(f"train again: {told}")


def test_the_environments_of_all_starts_are_kept(tmp_path: Path) -> None:
    """Where a run begins anew, without a checkpoint, there was no start before."""
    folder = RunFolder(tmp_path, DESCRIPTION)
    kept = tmp_path / "environment.json"
    for number in (1, 2):
        folder.record({"torch": number})
        assert read_json(kept) == {"torch": number}
    (tmp_path / "last.pt").touch()
    folder.record({"torch": 3})
    assert read_json(kept) == {"torch": 2, "resumed": [{"torch": 3}]}
    folder.record({"torch": 4})
    assert read_json(kept) == {"torch": 2, "resumed": [{"torch": 3}, {"torch": 4}]}
    kept.unlink()
    folder.record({"torch": 5})
    assert read_json(kept) == {"torch": 5}
    folder.close()


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
    said = f"{tmp_path}: continues with 1 micro-batches on a rank instead of 4\n"
    assert capsys.readouterr().out.replace("\n  ", " ") == said
    RunFolder(tmp_path, {"recipe": before}).close()  # recipe.json is not written yet
    (tmp_path / "last.pt").unlink()
    RunFolder(tmp_path, {"recipe": now}).close()
    (tmp_path / "last.pt").touch()
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="optimization.lr was 0.1, is now 0.2"):
        RunFolder(tmp_path, {"recipe": Training(replace(now.optimization, lr=0.2))})
