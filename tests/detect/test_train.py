"""What a fine-tuning can be asked for: other beginnings, FocusedDropout, averaged weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models as models
from safetensors.torch import save_file
from torch import Tensor

from common.recipe import Focus
from common.runs.checkpoints import load as load_checkpoint
from common.runs.metrics_log import read_metrics
from detect import __main__ as command
from detect.evaluate import title_of
from detect.recipes import RECIPES, Recipe

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--detector.train-sizes 48 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --optimization.batch-size 3 --optimization.epochs 2 "
    "--optimization.warmup-steps 2 --workers 0 --device cpu"
).split()  # two steps per epoch


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return models.resnet18(weights=None).state_dict()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Tensor]) -> Path:
    """As torchvision publishes its weights: no card."""
    path = tmp_path_factory.mktemp("backbone") / "resnet18-f37072fd.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def train(
    call_command: Callable[..., tuple[int, str, str]],
    toy_devkit: Path,
    backbone: Path,
    tmp_path: Path,
) -> Run:
    def call(*flags: object, **changed: object) -> tuple[int, str, str]:
        given = {"backbone": backbone, "data": toy_devkit, "out": tmp_path / "run"} | changed
        named = [text for name, value in given.items() for text in (f"--{name}", value)]
        return call_command(command, "train", "toy-retinanet", *named, *TINY, *flags)

    return call


@pytest.fixture
def config(call_command: Callable[..., tuple[int, str, str]]) -> Callable[..., dict]:
    def call(name: str, *flags: object) -> dict:
        code, out, err = call_command(command, "train", name, "--print-config", *flags)
        assert code == 0, err
        return json.loads(out)["recipe"]

    return call


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def body_of(run: Path) -> dict[str, Tensor]:
    prefix = "backbone.body."
    model = load_checkpoint(run / "last.pt")["model"]
    return {name.removeprefix(prefix): v for name, v in model.items() if name.startswith(prefix)}


def test_torchvisions_weights_in_both_formats(
    train: Run, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    safetensors = tmp_path / "resnet18.safetensors"
    save_file(weights, safetensors)
    assert train()[0] == 0
    assert train(backbone=safetensors, out=tmp_path / "again")[0] == 0
    first, second = body_of(tmp_path / "run"), body_of(tmp_path / "again")
    assert torch.equal(first["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])  # frozen
    assert not torch.equal(first["layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["backbone"] == {"file": "resnet18-f37072fd.pth"}


def test_from_scratch_everything_is_trained(
    train: Run, call_command: Callable[..., tuple[int, str, str]], toy_devkit: Path, tmp_path: Path
) -> None:
    assert train("--optimization.epochs", 1, backbone="scratch")[0] == 0
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["backbone"] == "scratch"
    assert recipe["recipe"]["detector"]["norm"] == "batch"
    assert recipe["recipe"]["detector"]["trainable_stages"] == 5
    body = body_of(tmp_path / "run")
    assert (body["bn1.num_batches_tracked"], body["layer4.1.bn2.num_batches_tracked"]) == (2, 2)
    for name, start in (("bn1.running_mean", 0), ("bn1.weight", 1), ("layer1.0.bn1.weight", 1)):
        assert (body[name] != start).any(), name
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [name for name in state["model"] if not name.endswith(statistics)]
    assert len(state["optimizer"]["param_groups"][0]["params"]) == len(parameters)
    code, out, err = call_command(
        *(command, "evaluate", "--run", tmp_path / "run", "--data", toy_devkit),
        *("--split", "2007:test", "--out", tmp_path / "test", "--device", "cpu", "--workers", 0),
    )
    assert code == 0, err
    evaluation = json.loads((tmp_path / "test" / "evaluation.json").read_text())
    assert evaluation["title"] == "toy-retinanet from scratch"
    code, _, err = train(out=tmp_path / "run")
    assert code == 2
    assert "another run" in one_line(err)


@pytest.mark.parametrize(
    "flags", [("--detector.norm", "frozen"), ("--detector.trainable-stages", 3)]
)
def test_random_weights_that_would_stay_random_are_refused(
    train: Run, flags: tuple[object, ...]
) -> None:
    code, _, err = train(*flags, backbone="scratch")
    assert code == 2
    assert "random weights" in one_line(err) and "leave out" in err


def test_cuda_graphs_are_refused(train: Run) -> None:
    code, _, err = train("--optimization.cuda-graphs")
    assert code == 2
    assert "--optimization.cuda-graphs" in one_line(err)


@pytest.mark.parametrize(
    ("focus", "backbone", "title"),
    [
        (Focus(), {}, "voc"),
        (Focus(), {"recipe_name": "fd"}, "voc from fd"),
        (Focus(after="layer3"), {"recipe_name": "plain"}, "voc with FocusedDropout from plain"),
        (Focus(after="layer3"), {"file": "x.pth"}, "voc with FocusedDropout"),
    ],
)
def test_titles_tell_detectors_apart(focus: Focus, backbone: dict[str, str], title: str) -> None:
    assert title_of("voc", focus, backbone) == title


def test_focused_dropout_takes_part_in_fine_tuning(
    train: Run, call_command: Callable[..., tuple[int, str, str]], toy_devkit: Path, tmp_path: Path
) -> None:
    assert train()[0] == 0
    focused = ("--focused-dropout", "layer3", "--focus.participation-rate", 0.5, "--focus.exact")
    assert train(*focused, out=tmp_path / "focused")[0] == 0
    log = read_metrics(tmp_path / "focused")
    assert [record["focus_participating_steps"] for record in log] == [1, 1]
    assert [record["focus_images"] for record in log] == [3, 3]
    assert all(0 < record["focus_keep_ratio"] < 1 for record in log)
    plain, changed = (
        load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("run", "focused")
    )
    assert list(plain) == list(changed)
    stage = "backbone.body.layer3.0.conv1.weight"
    assert not torch.equal(plain[stage], changed[stage])
    code, out, err = call_command(
        *(command, "evaluate", "--run", tmp_path / "focused", "--data", toy_devkit),
        *("--split", "2007:test", "--out", tmp_path / "test", "--device", "cpu", "--workers", 0),
    )
    assert code == 0, err
    assert "VOC mAP" in out and "latency p50" in out


def test_what_focused_dropout_stands_for(config: Callable[..., dict]) -> None:
    off = config("toy-retinanet")["focus"]
    assert (off["after"], off["weight_decay"]) == (None, None)
    name = "voc-retinanet-parity"
    focus = config(name, "--focused-dropout", "layer3")["focus"]
    assert (focus["after"], focus["weight_decay"]) == ("layer3", pytest.approx(1e-3))
    assert focus["participation_rate"] == 0.1
    flags = ("--focused-dropout", "layer4", "--optimization.weight-decay", 5e-4)
    focus = config(name, *flags)["focus"]
    assert (focus["after"], focus["weight_decay"]) == ("layer4", pytest.approx(5e-3))
    flags = ("--focused-dropout", "layer3", "--focus.weight-decay", 2e-3)
    assert config(name, *flags)["focus"]["weight_decay"] == 2e-3
    flags = ("--focused-dropout", "layer3", "--focus.weight-decay", "None")
    assert config(name, *flags)["focus"]["weight_decay"] is None
    both = config(name, "--focused-dropout", "layer3", "--backbone", "scratch")
    assert both["detector"]["norm"] == "batch" and both["focus"]["after"] == "layer3"


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("layer2", ["layer2", "does not train", "layer3, layer4"]),  # the toy recipe trains two
        ("layer7", ["layer7", "no submodule", "layer3"]),
    ],
)
def test_a_stage_that_focused_dropout_cannot_follow(
    train: Run, stage: str, words: list[str]
) -> None:
    code, _, err = train("--focused-dropout", stage)
    assert code == 2
    for word in words:
        assert word in one_line(err)


def test_the_penultimate_stage_by_that_word(train: Run) -> None:
    assert train("--focused-dropout", "penultimate", "--dry-run")[0] == 0  # layer3 is trained
    flags = ("--focused-dropout", "penultimate", "--detector.trainable-stages", 1)
    code, _, err = train(*flags, "--dry-run")
    assert code == 2 and "cannot follow layer3, which this recipe does not train" in err


def test_averaged_weights_are_evaluated(
    train: Run, call_command: Callable[..., tuple[int, str, str]], toy_devkit: Path, tmp_path: Path
) -> None:
    assert train("--optimization.ema-decay", 0.5)[0] == 0
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["model"].keys() == state["average"].keys()
    differ = [k for k in state["model"] if not torch.equal(state["model"][k], state["average"][k])]
    assert any("head" in name for name in differ) and any("layer4" in name for name in differ)
    code, _, err = call_command(
        *(command, "evaluate", "--run", tmp_path / "run", "--data", toy_devkit),
        *("--split", "2007:test", "--out", tmp_path / "test", "--device", "cpu", "--workers", 0),
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    logged = read_metrics(tmp_path / "run")[-1]
    assert metrics["voc"]["map_11point"] == pytest.approx(logged["val_map_11point"], abs=1e-9)


# ---- recipes ------------------------------------------------------------------------------------


def test_every_recipe_says_how_losses_are_divided_and_groups_voc_images() -> None:
    recipes: dict[str, Recipe] = {name: make() for name, make in RECIPES.items()}
    assert set(recipes) >= {
        f"voc-retinanet-{n}" for n in ("paper", "parity", "strong", "best", "small")
    }
    for name, recipe in recipes.items():
        expected = "batch" if name.endswith(("-parity", "-strong", "-best")) else "image"
        assert recipe.detector.loss_normalizer == expected, name
        padded = name.startswith("voc-") and not recipe.augmentation.scale
        assert recipe.group_by_aspect == padded, name


def test_the_strong_recipe() -> None:
    recipe = RECIPES["voc-retinanet-strong"]()
    detector, optimization = recipe.detector, recipe.optimization
    assert detector.train_sizes == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (detector.test_size, detector.max_size) == (800, 1333)
    assert (detector.head_norm, detector.box_loss, detector.norm) == ("group", "giou", "frozen")
    assert (optimization.epochs, optimization.ema_decay) == (24, 0.9998)
    assert [m / 24 for m in optimization.milestones] == pytest.approx([2 / 3, 8 / 9], abs=1e-3)


def test_the_best_recipe_is_the_public_schedule() -> None:
    recipe = RECIPES["voc-retinanet-best"]()
    steps = 16551 / 16  # an epoch of VOC07+12
    optimization = recipe.optimization
    assert optimization.epochs * steps == pytest.approx(120_000, rel=1e-3)
    assert [m * steps for m in optimization.milestones] == pytest.approx([80e3, 100e3], rel=1e-3)
    assert recipe.augmentation.scale == (0.1, 2.0)


def test_a_scale_is_a_range_and_replaces_the_crop(train: Run) -> None:
    for words in (("2.0", "0.1"), ("0", "1")):
        code, _, err = train("--augmentation.scale", *words)
        assert (code, "scale must satisfy" in one_line(err)) == (2, True)
    code, _, err = train("--augmentation.scale", "0.1", "2", "--augmentation.crop")
    assert (code, "choose it or crop" in one_line(err)) == (2, True)


@pytest.mark.parametrize("channels", [16, 32, 48])
def test_group_norm_needs_groups_of_several_channels(train: Run, channels: int) -> None:
    code, _, err = train("--detector.head-norm", "group", "--detector.fpn-channels", channels)
    assert code == 2
    assert f"fpn_channels {channels} " in one_line(err)
    assert "choose a multiple of 32 above 32" in err


def test_every_resnet_of_torchvision_is_a_body(config: Callable[..., dict]) -> None:
    names = [n for n in models.list_models(module=models) if n.startswith(("res", "wide_res"))]
    assert len(names) == 10
    for name in names:
        assert config("voc-retinanet-parity", "--body", name)["body"] == name
