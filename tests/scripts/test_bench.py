"""The benchmarks run, and both sides of each do the same work; times are never tested."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bench
import cv2
import numpy as np
import pytest
import torch
import torchvision.models as models
from benchmarks.measure import Run, Settings
from benchmarks.timing import CPU, StepTimes
from detectors import write_detector_run
from torch import Tensor, nn
from torch.autograd import DeviceType

from common.optimization.cuda_graphs import Capture
from common.processes import memory
from common.runs.finished import open_run
from detect.evaluate import build_detector
from detect.recipes import Recipe
from detect.scoring.voc import score_voc
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
            patch.setattr(memory, "keep_freed_memory", lambda: None)
            patch.setattr(sys, "argv", ["bench.py", *arguments])
            code = bench.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    def child(arguments: list[str], launcher: list[str]) -> Run:
        code, out, _ = call(*arguments)
        assert code == 0
        return Run(**json.loads(out.splitlines()[-1]))

    monkeypatch.setattr(importlib.import_module("benchmarks.measure"), "child", child)
    return call


SIDES = {
    "rates": {"copy_", "1 TFLOP", "launched by the host"},
    "layer": {"FocusedDropout", "x * 1.0", "torchvision drop_block2d", "timm DropBlock2d"},
    "method": {"the method, p = 0.1", "plain step"},
    "cifar": {"ours", "plain", "ours-bf16"},
    "imagenet": {"ours", "torchvision"},
    "loader": {"ours", "ours, up to the bytes for a GPU", "torchvision's preset on PIL"},
    "feeding": {"2 workers", "1 worker", "decode_jpeg on the CPU"},
    "retinanet": {"ours", "torchvision", "folded", "F.batch_norm"},
    "export": {"PyTorch", "onnxruntime", "torch.export"},
    "score": {"score_voc", "loop over detections", "pycocotools", "python -m detect score"},
    "checkpoint": {"ours, flushed, the one before kept", "torch.save, not flushed"},
    "epochs": {"with the end of an epoch", "within an epoch"},
    "scale": {"2 gloo ranks", "1 process", "400 images", "25 images", "50 detections"},
    "proof": {"a state described, all written", "--deterministic", "without"},
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
    lines = tmp_path / "lines.jsonl"
    if name == "export":  # tests/detect/test_export.py exports, which takes its time
        flags += ["--runs", str(write_detector_run(tmp_path / "run"))]
        for side in ("in_onnxruntime", "as_program"):
            monkeypatch.setattr(part("export"), side, in_pytorch)
    code, out, err = here(name, *flags, "--json", str(path), "--lines", str(lines))
    assert code == 0, err
    record = json.loads(path.read_text())
    assert record["threads"] == 1
    assert record["torch"] == torch.__version__
    assert {"device", "date", "commit", "load_start", "load_end"} <= record.keys()
    comparisons = record["benchmarks"][name]["comparisons"]
    assert [json.loads(line) for line in lines.read_text().splitlines()] == comparisons
    seen: set[str] = set()
    for comparison in comparisons:
        times = comparison["seconds"]
        assert len({len(values) for values in times.values()}) == 1
        assert comparison["host"] == {}  # a CPU has one time
        assert all(value > 0 for values in times.values() for value in values)
        assert comparison["faster"].keys() <= times.keys()
        seen |= times.keys()
    assert SIDES[name] <= seen
    assert out.count("\n| ") >= 2 + len(comparisons)
    assert bool(started) == (name in ("startup", "score"))
    assert torch.get_num_threads() == 1


# Dynamo asks every tensor for its gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", ["layer", "retinanet", "cifar"])
def test_compiled_sides_run_if_asked_for(here: Any, tmp_path: Path, name: str) -> None:
    lines = tmp_path / "lines.jsonl"
    flags = ["--tiny", "--threads", "1", "--device", "cpu", "--compiled", "--lines", str(lines)]
    assert here(name, *flags)[0] == 0
    for line in lines.read_text().splitlines():
        comparison = json.loads(line)
        assert any("compiled" in side for side in comparison["seconds"])
        if name != "layer":
            assert any("first step" in note for note in comparison["notes"].values())


def test_sides_cover_all_benchmarks() -> None:
    assert tuple(SIDES) == bench.NAMES
    for name in bench.NAMES:
        assert f"bench.py {name} " in bench.__doc__


def test_all_runs_each_in_a_process_and_goes_on_after_a_failure(
    here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = []

    def run(command: list[str]) -> None:
        given = bench.parser().parse_args(command[2:])
        ran.append((given.name, given.threads, given.tiny, given.photos, given.runs))
        if given.name != broken:
            record = {given.name: {"load": [1.0, 2.0], "comparisons": []}}
            given.json.write_text(json.dumps({"benchmarks": record}))

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(importlib.import_module("benchmarks.measure"), "_commit", lambda: "abc")
    path, broken = tmp_path / "times.json", "score"
    flags = ["--threads", "1", "--tiny", "--json", str(path)]
    code, _, _ = here("all", *flags, "--photos", str(tmp_path), "--runs", str(tmp_path))
    assert code == 1
    assert ran == [(name, 1, True, tmp_path, [tmp_path]) for name in bench.NAMES]
    record = json.loads(path.read_text())
    assert record["benchmarks"]["score"] == {"not run": "it failed; its message is above"}
    assert (record["load_start"], record["load_end"]) == (1.0, 2.0)

    ran.clear()
    broken = ""
    code, out, _ = here("all", *flags)
    assert code == 0
    needy = ("loader", "export")
    assert [name for name, *_ in ran] == [name for name in bench.NAMES if name not in needy]
    lacking = "real photos: give --photos DIR"
    for name in needy:
        assert f"{name}: skipped, it needs {lacking}" in out
        assert json.loads(path.read_text())["benchmarks"][name] == {"skipped": lacking}


def in_pytorch(run: Path, *_: object, inside: bool) -> Any:
    finished = open_run(run, "detect", Recipe, "last")
    network, settings = build_detector(finished).eval(), finished.recipe.detector
    return importlib.import_module("benchmarks.export").in_pytorch(network, settings, inside=inside)


def test_detections_that_differ_fail_their_side(part: Any) -> None:
    export = part("export")
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 40], [20, 20, 30, 40]])
    expected = boxes, np.array([0.9, 0.5, 0.4]), np.array([0, 1, 0]), np.array([0, 0, 1])
    order = [2, 0, 1]  # of detections does not count
    same = tuple(column[order] for column in expected)

    def distance(column: int, by: float) -> Any:
        found = [value.astype(float) for value in same]
        found[column] = found[column] + by
        counted = export.Distance(100)
        counted.add(tuple(found), expected)
        return counted

    assert distance(0, 0).small and distance(0, 0).boxes == 3
    assert distance(0, 5e-4).small and distance(0, 5e-4).pixels == pytest.approx(5e-4)
    assert not distance(0, 2e-3).small
    assert distance(1, 9e-5).small and not distance(1, 2e-4).small
    assert distance(2, 5).unmatched == distance(3, 5).unmatched == distance(0, 2).unmatched == 6
    fewer = export.Distance(100)
    fewer.add(tuple(column[:2] for column in expected), expected)
    assert fewer.unmatched == 1 and not fewer.small


def test_a_tie_over_the_last_place_of_a_full_image_is_told_apart(part: Any) -> None:
    export = part("export")
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 40]])
    labels = images = np.array([0, 0])

    def distance(limit: int, score: float) -> Any:
        elsewhere = boxes + np.array([[0], [100]])
        counted = export.Distance(limit)
        counted.add(
            (elsewhere, np.array([0.9, score]), labels, images),
            (boxes, np.array([0.9, 0.5]), labels, images),
        )
        return counted

    assert distance(2, 0.50009).small and distance(2, 0.50009).last_place == 2
    assert "2 in a last place over which two scores tie" in str(distance(2, 0.5))
    assert distance(2, 0.5002).unmatched == distance(3, 0.5).unmatched == 2


def test_a_side_that_fails_leaves_the_others(
    part: Any, here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = ["plain"]

    def child(arguments: list[str], launcher: list[str]) -> Run:
        if arguments[-1] in broken:
            raise subprocess.CalledProcessError(3, arguments)
        return Run([2.0], notes="first step 1 s")

    monkeypatch.setattr(part("measure"), "child", child)
    path = tmp_path / "times.json"
    flags = ["cifar", "--tiny", "--threads", "1", "--device", "cpu", "--json", str(path)]
    code, out, _ = here(*flags)
    assert code == 1
    (comparison,) = json.loads(path.read_text())["benchmarks"]["cifar"]["comparisons"]
    assert comparison["seconds"] == {"ours": [2.0], "ours-bf16": [2.0]}
    assert comparison["failed"] == {"plain": "failed with exit code 3"}
    assert "| plain | failed with exit code 3 |" in out
    broken += ["ours", "ours-bf16"]
    code, _, err = here(*flags)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: no side ran (ours, plain, ours-bf16)")


def test_what_would_fail_late_is_told_first(here: Any, tmp_path: Path) -> None:
    for arguments, told in [
        (("rates", "--threads", "0"), "--threads 0: choose 1 or more"),
        (("rates", "--json", str(tmp_path / "a" / "b")), f"there is no folder {tmp_path / 'a'} "),
    ]:
        code, out, err = here(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {told}")
    if not torch.cuda.is_available():
        told = "error: torch sees no GPU: use --device cpu\n"
        assert here("rates", "--device", "cuda")[::2] == (2, told)


def test_mistakes_are_told_in_a_line(here: Any, tmp_path: Path) -> None:
    assert here("loader")[::2] == (
        2,
        "error: the benchmark loader needs real photos: give --photos DIR\n",
    )
    code, _, err = here("loader", "--photos", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no .jpg" in err
    code, _, err = here("cifar", "--loop", "fast")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(
        "error: cifar has no loop fast: choose from ours, plain, ours-bf16, ours-graph"
    )
    code, _, err = here("cifar", "--network", "resnet1000")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: cifar has no network resnet1000: choose from cifar-resnet20, ")
    code, _, err = here("retinanet", "--network", "608x1024", "--device", "cpu")
    assert (code, err) == (
        2,
        "error: retinanet has no case 608x1024: choose from small, small-bf16, 256\n",
    )


def test_sides_take_turns_and_the_warm_up_does_not_count(part: Any) -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = part("timing").in_turn(sides, 3, warm_up=1, per={"a": 1000})
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
    more = replace(
        result,
        one_by_one=(0.8, "twenty calls"),
        images=8,
        published=(16.0, "others"),
        host={"ours": [0.1]},
    )
    assert more.rows()[0][2] == "2 s (1 s to 4 s); host 100 ms"
    assert more.rows()[3:] == [
        ("work", "eager: twenty calls", "800 ms", "0.40 of ours", ""),
        ("work", "published: 16 images/s, others", "500 ms", "0.25 of ours", ""),
    ]
    lines = measure.table([result, result]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| work", "| ", "| "] * 2


def test_durations_have_three_digits(part: Any) -> None:
    written = [part("measure").duration(value) for value in (1234.5, 2.0, 0.0456, 7.8e-5, 3e-9)]
    assert written == ["1234 s", "2 s", "45.6 ms", "78 us", "3 ns"]


def test_the_floor_of_a_product(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU of operations alone; on a GPU of bytes that miss the cache too, and of launches."""
    floors = part("floors")
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    with floors.Work() as work:
        (a @ b).view(-1).relu_()
    flops, moved = 2 * 10 * 20 * 30, 4 * (10 * 20 + 20 * 30 + 10 * 30)
    assert [tuple(seen) for seen in work.seen] == [(flops, moved, True), (0, 2 * 4 * 300, False)]
    cpu = floors.floors(work, floors.Rates(flops=6e9))
    assert cpu == {"floor": (pytest.approx(2e-6), "1.2e-05 GFLOP at the 6 GFLOP/s of a product")}

    slow_memory = floors.Rates(flops=6e9, bandwidth=1e9, cache=2500, kernel=1e-6)
    gpu = floors.floors(work, slow_memory)
    assert gpu["floor"][0] == pytest.approx(moved / 1e9)  # 4,400 bytes do not fit in the cache
    assert gpu["one_by_one"][0] == pytest.approx(moved / 1e9 + 1e-6)  # the 2,400 of the ReLU do
    cached = floors.Rates(flops=6e9, bandwidth=1e9, cache=1e6, kernel=1e-6)
    assert floors.floors(work, cached)["floor"][0] == pytest.approx(2e-6)


def test_the_work_of_a_resnet_is_that_of_its_documentation(part: Any) -> None:
    """Three passes over the products that torchvision states, but for the first one's gradient."""
    count = models.ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]  # multiply-adds, 1e9

    def make() -> Callable[[], Tensor]:
        network, images = models.resnet18(), torch.ones(2, 3, 224, 224)
        return lambda: network(images).sum()

    work = part("floors").count_training(make, bf16=True)
    first = 2 * 112 * 112 * 64 * 3 * 7 * 7
    flops = sum(seen.flops for seen in work.seen)
    assert flops / 2 == pytest.approx(3 * 2 * count * 1e9 - first, rel=0.001)
    halves = part("floors").count_training(make, bf16=False)
    moved = [sum(seen.moved for seen in one.seen if seen.is_product) for one in (work, halves)]
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.01)


@pytest.mark.parametrize("inference", [False, True])
def test_detecting_has_work_too(part: Any, inference: bool) -> None:
    """Inference mode hands over operations whole: what a conv2d is made of must be counted."""
    convolution, images = torch.nn.Conv2d(3, 5, 3), torch.ones(2, 3, 8, 8)
    with torch.inference_mode(inference), part("floors").Work() as work:
        convolution(images)
    assert sum(seen.flops for seen in work.seen) == 2 * 2 * 6 * 6 * 5 * 3 * 3 * 3


def test_the_parts_of_a_step_by_hand(part: Any) -> None:
    """Two convolutions, a ReLU and a sum; backward; SGD with momentum."""
    cost, floors = part("cost"), part("floors")
    wide = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    narrow = nn.Conv2d(8, 4, 1, bias=False)
    weights = [wide.weight, narrow.weight]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True)
    images = torch.ones(2, 3, 16, 16)
    for _ in range(2):
        with cost.Parts(floors.Rates(flops=1e9, bandwidth=1e9, cache=0.0)) as parts:
            hidden = wide(images).relu_()
            with parts.within(cost.LOSSES):
                loss = narrow(hidden).sum()
            loss.backward()
            with parts.within(cost.OPTIMIZER):
                optimizer.step()
        optimizer.zero_grad()
    pixels, w, n = 2 * 16 * 16, 3 * 8 * 9, 8 * 4  # of all images; weights of either
    convolutions = parts.sums[cost.CONVOLUTIONS]
    assert convolutions.calls == 4
    # Forward and the gradient of the weights in both, that of the input in the second alone.
    assert convolutions.flops == 2 * pixels * (2 * w + 3 * n)
    read_and_written = [
        3 * pixels + w + 8 * pixels,
        8 * pixels + n + 4 * pixels,
        # The gradient of a sum is one number, expanded; what comes out is as large as what went in.
        1 + 8 * pixels + n + 8 * pixels + n,
        8 * pixels + 3 * pixels + w + w,
    ]
    assert convolutions.moved == 4 * sum(read_and_written)
    assert parts.sums[cost.LOSSES].flops == 4 * pixels  # the sum; its convolution stands above
    assert parts.sums[cost.OPTIMIZER].flops == w + n
    assert parts.sums[cost.OPTIMIZER].moved == 4 * 3 * (w + n)  # weight, gradient, momentum
    assert convolutions.seconds == pytest.approx(convolutions.flops / 1e9, rel=0.5)
    shares = cost.table(part("retinanet").TINY_CASE, parts.sums).splitlines()
    assert shares[-1].startswith(f"| a step | {sum(s.calls for s in parts.sums.values())} |")


def test_the_parts_of_the_detectors_step_are_its_work(part: Any) -> None:
    """Counted without values: as many operations as the step that is run."""
    cost, retinanet = part("cost"), part("retinanet")
    case = replace(retinanet.TINY_CASE, precision="fp32")
    sums = cost.count_step(case)
    batch = retinanet.make_batch(case, CPU)
    network = retinanet.make_ours(case, CPU).train()
    with part("floors").Work() as work:
        sum(network(batch.images, batch.targets).values()).backward()
    assert sums[cost.CONVOLUTIONS].flops == sum(seen.flops for seen in work.seen)
    assert all(one.calls for one in sums.values())
    assert sums[cost.CONVOLUTIONS].flops > 0.9 * sum(one.flops for one in sums.values())


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
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        trainer.batches = iter([(images, torch.arange(2))])
        trainer.step(step)
        weights[name] = trainer.network.state_dict()
    assert weights["plain"].keys() == weights["off"].keys() == weights["on"].keys()
    assert all(torch.equal(value, weights["off"][key]) for key, value in weights["plain"].items())
    assert not torch.equal(weights["plain"]["fc.weight"], weights["on"]["fc.weight"])


@pytest.mark.parametrize("name", ["plain", "ours", "ours-bf16"])
def test_loops_do_the_same_work(
    part: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One update of all weights per step, on normalised float32 images; logits in the precision."""
    loops, cpu = part("loops"), torch.device("cpu")
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: None)
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
    data, times = loops.random_images(24), StepTimes(cpu, steps=1, regions=1, warm_up=1)
    side = loops.Side.of(Settings(loop=name))
    loop = loops.plain_cifar if name == "plain" else loops.our_cifar
    loop("cifar-resnet20", data, 8, side, cpu, times)
    assert len(images) == times.batches == 3
    assert times.took()[0].seconds > 0
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


def test_the_name_of_a_side_says_how_it_runs(part: Any) -> None:
    """The GPU of these settings need not be there."""
    of, gpu = part("loops").Side.of, torch.device("cuda")
    assert of(Settings(loop="ours", device=gpu)).precision == "bf16"
    assert of(Settings(loop="plain")) == part("loops").Side("plain", "fp32", False, False, None)
    graphed = of(Settings(loop="ours-compiled-graphed", device=gpu))
    assert (graphed.graphed, graphed.tuned, graphed.backend) == (True, False, "inductor")
    assert not of(Settings(loop="ours-graphed")).graphed  # a CPU has no graphs
    assert of(Settings(loop="ours-tuned", tiny=True)).tuned
    recipe = part("loops").recipe_for("resnet50", 256, "bf16", graphed=True)
    assert recipe.optimization.cuda_graphs


def test_a_gpu_has_the_cases_that_are_published(part: Any) -> None:
    gpu = Settings(device=torch.device("cuda"))
    case = part("imagenet").choose(gpu)
    assert (case.network, case.batch, case.side) == ("resnet50", 256, 224)
    sizes = [
        part("retinanet").make_batch(replace(case, batch=1), CPU).images.pixels.shape[-2:]
        for case in part("retinanet").choose(gpu)
    ]
    assert sizes == [(608, 1024), (800, 800)]
    for name in ("cifar", "imagenet"):
        shown = part("loops").sides_of(gpu, (), part(name).ON_GPU, ())
        assert {"ours", "ours-graphed"} < set(shown) <= set(part(name).LOOPS)


class Rerun(Capture):
    """Runs the step anew where a graph would replay it."""

    def __init__(self, device: torch.device) -> None:
        pass

    def side_stream(self) -> Any:
        return nullcontext()

    def capture(self, step: Callable[[], dict[str, Tensor]]) -> Any:
        means: dict[str, Tensor] = {}
        return lambda: means.update(step()), means


def test_graphed_steps_of_the_method_are_its_steps(
    part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = part("method")
    monkeypatch.setattr(method, "Capture", Rerun)
    focus = importlib.import_module("pretrain.recipes").RECIPES["cifar10-resnet20-fd"]().focus
    weights = []
    for graphed in (False, True):
        case = method.Case("cifar10-resnet20-fd", 10, 2, 1, graphed=graphed)
        torch.manual_seed(0)
        trainer = method.Trainer(case, focus, CPU)
        steps = [method.first_step(trainer.focus, participating=flag) for flag in (False, True)]
        for number in steps * 5:  # three warm-ups of each kind, then the graphs
            trainer.step(number)
        weights.append(trainer.network.state_dict())
    torch.testing.assert_close(weights[0], weights[1])


def test_a_kernel_counts_once_in_the_parts_of_a_step(
    part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profiler names it in a row of the host and, for what is annotated, in one of the GPU."""
    retinanet, gpu = part("retinanet"), torch.device("cuda")
    names = ["aten::convolution", retinanet.LOSSES, "Optimizer.step#SGD.step", "aten::add"]
    table = [
        SimpleNamespace(key=name, device_type=kind, device_time_total=1e6, cpu_time_total=5e6)
        for name in names
        for kind in (DeviceType.CPU, DeviceType.CUDA)
    ]
    profiled = SimpleNamespace(key_averages=lambda: table)
    monkeypatch.setattr(retinanet, "profile", lambda **settings: nullcontext(profiled))
    monkeypatch.setattr(retinanet, "elapsed", lambda step, device: SimpleNamespace(seconds=10.0))

    class Network(nn.Module):
        def compute_loss(self) -> None: ...

    assert retinanet.parts(lambda: None, Network(), gpu) == {
        retinanet.CONVOLUTIONS: 1.0,
        retinanet.LOSSES: 1.0,
        retinanet.OPTIMIZER: 1.0,
        retinanet.REST: 7.0,
    }


def test_inputs_of_a_layer_take_turns(part: Any) -> None:
    seen = []

    def side(x: Tensor) -> Tensor:
        seen.append(float(x.detach()))
        return x * 1.0

    maps = [(torch.tensor(float(n), requires_grad=True), torch.ones(())) for n in range(2)]
    call = part("layer").rotating(side, maps)
    for _ in range(3):
        call()
    assert seen == [0.0, 1.0, 0.0]


def test_drawn_photos_are_photos(part: Any, tmp_path: Path) -> None:
    part("feeding").draw_photos(tmp_path / "drawn", 2)
    for photo in part("loader").find_photos(tmp_path / "drawn"):
        pixels = cv2.imread(str(photo)).astype(float)
        assert sorted(pixels.shape[:2]) == [375, 500]
        assert 30 < pixels.std() < 80
        assert 40_000 < photo.stat().st_size < 200_000
        neighbours = np.abs(np.diff(pixels, axis=1)).mean()
        assert neighbours < pixels.std() / 3  # smooth, as no noise of single pixels is


def test_every_case_has_a_network_and_a_recipe(part: Any) -> None:
    for network in part("cifar").CPU_CASES:
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
    bodies = part("frozen_norm").norm_bodies("resnet18")
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
