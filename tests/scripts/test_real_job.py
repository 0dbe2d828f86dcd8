"""The three scripts of the full-size job, at tiny size: two processes, real files, one report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# At the recipes' rates two images per process diverge within the three steps.
SMALL = (
    "--device cpu --workers 0 --optimization.epochs 1 --optimization.batch-size 4 "
    "--optimization.lr 1e-4"
).split()


def call(script: str, *arguments: object, cwd: Path, **variables: object) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    environment |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        [SCRIPTS / script, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    sizes = "--train-per-class 2 --val-per-class 1 --trainval 8 --test 3".split()
    subprocess.run(
        [sys.executable, SCRIPTS / "toy_data.py", "--out", root, *sizes],
        check=True,
        capture_output=True,
    )
    # The scripts name both years: the second one holds the same scenes under other ids.
    devkit = root / "VOCdevkit"
    for path in sorted((devkit / "VOC2007").rglob("*.*")):
        copy = devkit / "VOC2012" / path.parent.relative_to(devkit / "VOC2007")
        copy.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "Main":
            ids = path.read_text().split()
            (copy / path.name).write_text("".join(f"2012_{image_id}\n" for image_id in ids))
        else:
            (copy / f"2012_{path.name}").write_bytes(path.read_bytes())
    return root


def test_pretrain_finetune_evaluate_on_two_processes(data: Path, tmp_path: Path) -> None:
    call(
        "pretrain_imagenet.sh",
        *("--network", "resnet18", "--images.size", 32, *SMALL),
        cwd=tmp_path,
        IMAGENET=data / "imagenet",
        GPUS=2,
    )
    run = tmp_path / "runs" / "imagenet-resnet50-fd"
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    assert recipe["focus"] == {
        "after": "layer3",
        "gamma": [0.3, 0.6],
        "gamma_per": "image",
        "opposite": False,
        "reference": "strongest",
        "places": "focused",
        "participation_rate": 0.1,
        "exact": False,
        "weight_decay": 1e-3,
        "freeze_bn_stats": False,
    }
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert (run / "backbone.safetensors").exists()

    sizes = ("--detector.train-sizes", 64, "--detector.test-size", 64, "--detector.max-size", 64)
    call(
        "finetune_voc.sh",
        *("--body", "resnet18", "--detector.fpn-channels", 16, *sizes, *SMALL),
        cwd=tmp_path,
        VOC=data / "VOCdevkit",
        BACKBONE=run / "backbone.safetensors",
        RUN="runs/voc-fd",
        GPUS=2,
    )
    detector = tmp_path / "runs" / "voc-fd"
    assert json.loads((detector / "environment.json").read_text())["train_images"] == 16

    call("evaluate_voc.sh", detector, cwd=tmp_path, VOC=data / "VOCdevkit", GPUS=2)
    metrics = json.loads((detector / "test" / "metrics.json").read_text())
    assert len(metrics["voc"]["per_class"]) == 6
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("script", "arm", "stage", "recipe"),
    [
        ("pretrain_imagenet.sh", "-fd", "pretrain", "imagenet-resnet50-fd"),
        ("pretrain_imagenet.sh", "", "pretrain", "imagenet-resnet50"),
        ("finetune_voc.sh", "", "detect", "voc-retinanet-paper"),
    ],
)
def test_the_scripts_spell_out_the_recipe(
    script: str, arm: str, stage: str, recipe: str, tmp_path: Path
) -> None:
    for name in ("torchrun", "python"):  # print what they were called with, a word a line
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [SCRIPTS / script],
        cwd=tmp_path,
        env=os.environ
        | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ARM": arm}
        | {"IMAGENET": "i", "VOC": "v", "BACKBONE": "b", "RUN": "r"},
        check=True,
        capture_output=True,
        text=True,
    )
    words = done.stdout.split("\n-m\n")[1].split()
    assert words[:3] == [stage, "train", recipe]
    flags = words[3:]
    for flag in ("--data", "--out", "--seed", "--backbone"):
        if flag in flags:
            del flags[flags.index(flag) : flags.index(flag) + 2]
    assert len(flags) > 25

    def resolved(*more: str) -> object:
        command = [sys.executable, "-m", stage, "train", recipe, "--print-config", *more]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    assert resolved(*flags) == resolved()


@pytest.mark.parametrize(
    ("script", "variable"),
    [
        ("pretrain_imagenet.sh", "IMAGENET"),
        ("finetune_voc.sh", "VOC"),
        ("evaluate_voc.sh", "VOC"),
    ],
)
def test_a_missing_variable_is_named(script: str, variable: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("IMAGENET", "VOC", "BACKBONE")}
    done = subprocess.run(
        [SCRIPTS / script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"set {variable} to" in done.stderr
