"""The benchmarks run, and both sides of each do the same work; times are never tested."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bench
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common import allocator
from detect.voc_score import score_voc
from pretrain.networks import build_network


@pytest.fixture
def part() -> Callable[[str], ModuleType]:
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two smooth pictures of 80x60 pixels, one folder down."""
    folder = tmp_path / "photos" / "class"
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[0:60, 0:80]
    for number in range(2):
        pixels = np.stack([rows * 4, columns * 3, 100 + 50 * number + rows], axis=2)
        cv2.imwrite(str(folder / f"{number}.jpg"), pixels.astype(np.uint8))
    return folder.parent


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the script in this process, its processes too; the allocator stays as it is."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(allocator, "keep_freed_memory", lambda: None)
            patch.setattr(sys, "argv", ["bench.py", *arguments])
            code = bench.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    def child(arguments: list[str], launcher: list[str]) -> float:
        code, out, _ = call(*arguments)
        assert code == 0
        return float(out.splitlines()[-1])

    measure = importlib.import_module("benchmarks.measure")
    monkeypatch.setattr(measure, "child", child)
    return call


SIDES = {
    "layer": {"FocusedDropout", "x * 1.0", "torchvision drop_block2d", "timm DropBlock2d"},
    "method": {"the method, p = 0.1", "plain step"},
    "cifar": {"ours", "plain", "ours-bf16"},
    "imagenet": {"ours", "torchvision"},
    "loader": {"ours", "ours, up to the bytes for a GPU", "torchvision's preset on PIL"},
    "retinanet": {"ours", "torchvision", "folded", "F.batch_norm"},
    "score": {"score_voc", "loop over detections", "pycocotools, all its thresholds"},
    "checkpoint": {"ours, flushed, the one before kept", "torch.save, not flushed"},
    "epochs": {"with the end of an epoch", "within an epoch"},
    "scale": {"2 gloo ranks", "1 process", "400 images", "25 images", "50 detections"},
    "startup": {"python -m pretrain --help", "python -m detect --help", "to the first step"},
}


@pytest.mark.parametrize("name", SIDES)
def test_each_benchmark_runs_at_its_smallest(
    part: Callable[[str], ModuleType],
    here: Callable[..., tuple[int, str, str]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(part("startup"), "call", lambda *words: started.append(words))
    path = tmp_path / "times.json"
    flags = ["--tiny", "--threads", "1", "--device", "cpu", "--coco", "--photos", str(photos)]
    code, out, _ = here(name, *flags, "--json", str(path))
    assert code == 0
    record = json.loads(path.read_text())
    assert record["threads"] == 1
    assert record["torch"] == torch.__version__
    assert {"device", "date", "commit", "load_start", "load_end"} <= record.keys()
    comparisons = record["benchmarks"][name]["comparisons"]
    seen: set[str] = set()
    for comparison in comparisons:
        times = comparison["seconds"]
        assert len({len(values) for values in times.values()}) == 1
        assert all(value > 0 for values in times.values() for value in values)
        assert comparison["faster"].keys() <= times.keys()
        seen |= times.keys()
    assert SIDES[name] <= seen
    assert out.count("\n| ") >= 2 + len(comparisons)
    assert bool(started) == (name == "startup")
    assert torch.get_num_threads() == 1


def test_sides_cover_all_benchmarks() -> None:
    assert tuple(SIDES) == bench.NAMES
    for name in bench.NAMES:
        assert f"bench.py {name} " in bench.__doc__


def test_all_runs_each_in_a_process_and_goes_on_after_a_failure(
    here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        given = bench.parser().parse_args(command[2:])
        ran.append((given.name, given.threads, given.tiny, given.photos, given.coco))
        record = {given.name: {"load": [1.0, 2.0], "comparisons": []}}
        given.json.write_text(json.dumps({"benchmarks": record}))
        return subprocess.CompletedProcess(command, int(given.name == "loader"))

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(importlib.import_module("benchmarks.measure"), "_commit", lambda: "abc")
    path = tmp_path / "times.json"
    code, _, _ = here("all", "--threads", "1", "--tiny", "--json", str(path))
    assert code == 1
    assert ran == [(name, 1, True, None, False) for name in bench.NAMES]
    record = json.loads(path.read_text())
    assert record["benchmarks"]["loader"] == {"not run": "it failed; its message is above"}
    assert (record["load_start"], record["load_end"]) == (1.0, 2.0)


def test_mistakes_are_told_in_a_line(here: Any, tmp_path: Path) -> None:
    assert here("loader")[::2] == (
        2,
        "error: the benchmark loader needs real photos: give --photos DIR\n",
    )
    code, _, err = here("loader", "--photos", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no .jpg" in err
    code, _, err = here("cifar", "--loop", "fast")
    assert (code, err) == (2, "error: cifar has no loop fast: it has ours, plain, ours-bf16\n")


def test_sides_take_turns_and_the_warm_up_does_not_count(part: Any) -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = part("measure").in_turn(sides, 3, warm_up=1, per={"a": 1000})
    assert "".join(order) in ("abbaabba", "baabbaab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_of_pairs_and_goals_of_their_median(part: Any) -> None:
    measure = part("measure")
    result = measure.Comparison(
        case="work",
        seconds={"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 3.0, 4.0]},
        faster={"theirs": 1.5},
        limit=2.0,
        floor=(0.5, "the speed of light"),
    )
    assert result.ratios("theirs") == [3.0, 1.5, 1.0]
    assert result.rows() == [
        ("work", "ours", "2 s (1 s to 4 s)", "", "2 s: NO"),
        ("work", "theirs", "3 s (3 s to 4 s)", "1.50 (1.00 to 3.00)", "1.50: yes"),
        ("work", "floor: the speed of light", "500 ms", "0.25 of ours", ""),
    ]
    lines = measure.table([result, result]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| work", "| ", "| "] * 2


def test_durations_have_three_digits(part: Any) -> None:
    written = [part("measure").duration(value) for value in (1234.5, 2.0, 0.0456, 7.8e-5, 3e-9)]
    assert written == ["1234 s", "2 s", "45.6 ms", "78 us", "3 ns"]


def test_the_arithmetic_floor_counts_a_product(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = part("measure")
    monkeypatch.setattr(measure, "elapsed", lambda call, device: 2.0)
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    seconds, reason = measure.arithmetic_floor(lambda: a @ b, torch.device("cpu"))
    assert seconds == pytest.approx(2 * 10 * 20 * 30 / 1536**3)
    assert "GFLOP/s" in reason


def test_layer_sides_pass_or_zero_what_they_get(part: Any) -> None:
    x = torch.rand(4, 8, 14, 14).add_(0.1).requires_grad_()
    gradient = torch.rand(4, 8, 14, 14)
    dropped = {}
    for name, side in part("layer").sides().items():
        y = part("layer").forward_backward(side, x, gradient)
        scale = (y / x).detach()  # one factor for all that is kept
        assert torch.allclose(x.grad, gradient * scale, atol=1e-5), name
        kept = scale[scale != 0]
        assert torch.allclose(kept, kept[0].expand_as(kept), rtol=1e-4), name
        dropped[name] = (scale == 0).float().mean().item()
    assert dropped.pop("x * 1.0") == 0
    assert all(0 < share < 1 for share in dropped.values()), dropped


def test_a_step_without_participation_is_the_plain_step(part: Any) -> None:
    method, cpu = part("method"), torch.device("cpu")
    case = method.Case("cifar10-resnet20-fd", 10, 2, 1)
    focus = importlib.import_module("pretrain.recipes").RECIPES[case.recipe]().focus
    weights = {}
    for name in ("plain", "off", "on"):
        trainer = method.Trainer(case, focus if name != "plain" else method.Focus(), cpu)
        step = trainer.focus and method.first_step(trainer.focus, participating=name == "on")
        torch.manual_seed(3)
        trainer.batch = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.arange(2)
        trainer.step(step)
        weights[name] = trainer.network.state_dict()
    assert weights["plain"].keys() == weights["off"].keys() == weights["on"].keys()
    assert all(torch.equal(value, weights["off"][key]) for key, value in weights["plain"].items())
    assert not torch.equal(weights["plain"]["fc.weight"], weights["on"]["fc.weight"])


def test_the_seconds_are_those_of_the_steps_after_the_warm_up(part: Any) -> None:
    """Three steps from 10 s to 16 s; when the last one ended is not known."""
    assert part("loops").seconds_per_step([0.0, 8.0, 10.0, 11.0, 12.0, 16.0], 2) == 2.0


@pytest.mark.parametrize("name", ["plain", "ours", "ours-bf16"])
def test_loops_do_the_same_work(
    part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One update of all weights a step, on normalised float32 images; logits in the precision."""
    loops, cpu = part("loops"), torch.device("cpu")
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: None)
    networks: list[nn.Module] = []
    images: list[Tensor] = []
    logits: list[Tensor] = []

    def note(network: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert network.training
        images.append(inputs[0])
        logits.append(output)

    def build(*arguments: Any, **settings: Any) -> nn.Module:
        torch.manual_seed(1)
        networks.append(build_network(*arguments, **settings))
        networks[0].register_forward_hook(note)
        return networks[0]

    monkeypatch.setattr(loops, "build_network", build)
    data = loops.random_images(24)
    if name == "plain":
        starts = loops.plain_cifar("cifar-resnet20", data, 8, cpu)
    else:
        precision = "bf16" if name == "ours-bf16" else "fp32"
        starts = loops.our_cifar("cifar-resnet20", data, 8, precision, cpu)
    assert len(starts) == len(images) == 3
    assert starts == sorted(starts)
    torch.manual_seed(1)
    fresh = build_network("cifar-resnet20", 10).state_dict()
    trained = networks[0].state_dict()
    assert trained.keys() == fresh.keys()
    assert not any(torch.equal(trained[key], value) for key, value in fresh.items())
    assert trained["bn1.num_batches_tracked"] == 3
    assert {(batch.shape, batch.dtype) for batch in images} == {((8, 3, 32, 32), torch.float32)}
    pixels = torch.cat(images)
    inside = pixels[:, :, 8:24, 8:24]  # no crop has its border here
    # Even bytes have a mean of 0.5 and a deviation of 0.289 before CIFAR-10 is normalised away.
    assert torch.allclose(inside.mean(dim=(0, 2, 3)), torch.tensor([0.035, 0.073, 0.205]), atol=0.1)
    assert torch.allclose(inside.std(dim=(0, 2, 3)), torch.tensor([1.17, 1.19, 1.11]), atol=0.05)
    expected = torch.bfloat16 if name == "ours-bf16" else torch.float32
    assert {output.dtype for output in logits} == {expected}


def test_every_case_has_a_network_and_a_recipe(part: Any) -> None:
    for network in part("cifar").CASES:
        recipe = part("loops").recipe_for(network, 16, "fp32")
        assert (recipe.network, recipe.optimization.batch_size) == (network, 16)
        assert recipe.optimization.epochs == 1


def test_both_loaders_give_the_same_pictures(
    part: Any, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    """Cropped to the whole picture, they differ by the flip and by two decoders."""
    loader = part("loader")
    paths = loader.find_photos(photos)
    assert len(paths) == 2
    transform = loader.preset(32)
    transform.transforms[0].scale = (1.0, 1.0)
    whole = loader.train_image
    monkeypatch.setattr(loader, "train_image", lambda *key: whole(*key, min_scale=1.0))
    mine, theirs = loader.ours(paths, 32), loader.torchvision(paths, transform)
    assert mine.shape == theirs.shape == (2, 3, 32, 32)
    assert mine.dtype == theirs.dtype == torch.float32
    for one, other in zip(mine, theirs, strict=True):
        distances = [(one - turned).abs().mean() for turned in (other, other.flip(2))]
        assert min(distances) < 0.02 < max(distances)


def test_a_loop_over_detections_gives_the_same_map(part: Any) -> None:
    score = part("score")
    truth, detections = score.synthetic(40, 2000)
    assert len(truth.image_ids) == 40
    assert len(truth.box) == 120
    assert len(detections.score) == 2000
    assert (detections.box[:, 2:] > detections.box[:, :2]).all()
    result = score_voc(truth, detections)
    assert 0.2 < np.mean(result.overlap >= 0.5) < 0.8
    expected = result.metrics()["map_11point"]
    assert 0.1 < expected < 0.9
    assert score.loop_score(truth, detections) == pytest.approx(expected, abs=1e-12)


def test_detectors_have_the_same_losses_and_detections(part: Any) -> None:
    retinanet, cpu = part("retinanet"), torch.device("cpu")
    case = retinanet.Case("resnet18", 64, 64, 2, 1)
    batch, ours = retinanet.make_batch(case, cpu), retinanet.make_ours(case, cpu)
    retinanet.spread_scores(ours, batch)
    stock = retinanet.make_stock(case, ours, cpu)
    mine = ours.train()(batch.images, batch.targets)
    theirs = stock.train()(batch.final, batch.final_targets)
    assert mine.keys() == theirs.keys()
    for name, loss in mine.items():
        assert loss.item() == pytest.approx(theirs[name].item(), rel=1e-3), name
    with torch.inference_mode():
        mine, theirs = ours.eval()(batch.images), stock.eval()(batch.final)
    for one, other in zip(mine, theirs, strict=True):
        assert len(one["scores"]) == len(other["scores"]) > 0
        assert torch.allclose(one["scores"], other["scores"], atol=1e-4)


def test_frozen_norms_compute_the_same(part: Any) -> None:
    bodies = part("retinanet").norm_bodies("resnet18")
    x = torch.randn(2, 3, 64, 64)
    outputs = [network(x) for network in bodies.values()]
    assert len(outputs) == 3
    for output in outputs[1:]:
        assert torch.allclose(outputs[0], output, rtol=1e-4, atol=1e-4)
    trained = [sum(p.requires_grad for p in network.parameters()) for network in bodies.values()]
    assert len(set(trained)) == 1


def test_startup_ends_behind_the_first_step(part: Any, tmp_path: Path) -> None:
    startup = part("startup")
    sizes = startup.Sizes(train_per_class=8, val_per_class=1, trainval=1, test=1)
    startup.make_toy_data(tmp_path / "data", sizes=sizes)
    flags = ["--data", f"{tmp_path}/data/imagenet", "--out", f"{tmp_path}/run", "--resume", "never"]
    startup.call("-c", startup.FIRST_STEP, "train", "toy-resnet18-fd", *flags)
    assert (tmp_path / "run" / "recipe.json").exists()
    assert not (tmp_path / "run" / "last.pt").exists()
