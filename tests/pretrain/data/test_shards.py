"""Images in tar shards: read by position, fetched once, and nothing believed that an index says."""

import hashlib
import io
import json
import multiprocessing
import os
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.errors import InputError, SourceError
from common.images import downloading
from common.images.downloading import Patience
from common.images.loading import Reading
from common.images.sampling import Sampling
from pretrain.data import shards
from pretrain.data.datasets import load
from pretrain.data.image_sets import decode, hold_out, select_classes
from pretrain.data.shards import ShardSet, open_shards, read_index
from pretrain.data.splits import Split, open_split
from pretrain.recipes import RECIPES

CLASSES = ["cat", "dog", "owl"]
Index = dict[str, Any]


def jpeg(number: int) -> bytes:
    """Noise, of another size for each number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (20 + number, 24, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1])


CONTENTS = [jpeg(number) for number in range(10)]
LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def write_shards(folder: Path) -> Index:
    """Put images 0 to 9 into three tar files, image i into shard i % 3, and write the index."""
    folder.mkdir(parents=True)
    samples: dict[str, list[Any]] = {
        "name": [f"{number}.jpg" for number in range(10)],
        "class": list(LABELS),
        "shard": [number % 3 for number in range(10)],
        "offset": [0] * 10,
        "size": [len(content) for content in CONTENTS],
    }
    described = []
    for shard in range(3):
        path = folder / f"part-{shard}.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(shard, 10, 3):
                for kind, content in (("jpg", CONTENTS[number]), ("cls", b"%d" % LABELS[number])):
                    member = tarfile.TarInfo(f"{number}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        with tarfile.open(path) as tar:
            for number in range(shard, 10, 3):
                samples["offset"][number] = tar.getmember(f"{number}.jpg").offset_data
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        described.append({"name": path.name, "bytes": len(data), "sha256": sha256})
    index: Index = {"format": 1, "made_from": None, "classes": list(CLASSES)}
    index |= {"shards": described, "samples": samples}
    (folder / "index.json").write_text(json.dumps(index))
    return index


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "data" / "train")
    return tmp_path / "data"


def opened(root: Path) -> ShardSet:
    data = open_shards(root, ("train",))
    assert data is not None
    return data


def decoded(number: int) -> NDArray[np.uint8]:
    pixels: Any = cv2.imdecode(np.frombuffer(CONTENTS[number], np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(pixels[..., ::-1], np.uint8)


# ---- reading ----


def test_images_lie_where_the_index_says(root: Path) -> None:
    data = load("imagenet", root, "train")
    assert isinstance(data, ShardSet)
    assert data.classes == tuple(CLASSES)
    assert data.labels.tolist() == LABELS
    for number in (7, 0, 9, 3, 3):
        assert data.read(number) == CONTENTS[number]
        np.testing.assert_array_equal(data.image(number), decoded(number))


def test_parts_of_shards_keep_their_images(root: Path) -> None:
    data = opened(root)
    first = select_classes(data, 2)
    assert first.classes == ("cat", "dog")
    assert [first.read(i) for i in range(len(first.labels))] == CONTENTS[:7]
    kept, held_out = hold_out(data, 3, seed=0)
    for part in (kept, held_out):
        for position, label in enumerate(part.labels):
            number = CONTENTS.index(part.read(position))
            assert LABELS[number] == label
            assert os.fsdecode(part.names[position]) == f"{number}.jpg"


def test_val_may_be_called_test(tmp_path: Path) -> None:
    write_shards(tmp_path / "test")
    for split in ("val", "test"):
        assert isinstance(load("imagenet", tmp_path, split), ShardSet)


def test_train_in_shards_and_val_in_folders(root: Path) -> None:
    for name in CLASSES:
        (root / "val" / name).mkdir(parents=True)
        (root / "val" / name / "0.jpg").write_bytes(CONTENTS[0])
    assert load("imagenet", root, "val").classes == load("imagenet", root, "train").classes


def split_of(root: Path, size: int, crop: str, *, training: bool) -> Split:
    recipe = RECIPES["imagenet-resnet50"]()
    images = replace(recipe.images, size=size, crop=crop, split_by=None)  # type: ignore[arg-type]
    reading = Reading(workers=0, device=torch.device("cpu"))
    return open_split(images, root, "train", reading, training=training, seed=0)


def test_a_resumed_epoch_reads_each_of_its_images_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        reads.append((size, offset))
        return pread(descriptor, size, offset)

    split = split_of(root, 16, "resized", training=True)
    monkeypatch.setattr(os, "pread", counting)
    sampling = Sampling(num_images=10, batch_size=6, seed=3, rank=1, world_size=2)
    steps = 3, 5  # the second step of the second epoch, the first of the third
    batches = list(split.load(sampling.micro_batches(*steps)))
    mine = [*sampling.order(1)[8:], *sampling.order(2)[3:6]]  # second halves of batches of 4 and 6
    places = opened(root).places
    assert reads == [(places[i, 2], places[i, 1]) for i in mine]
    assert [int(label) for _, labels in batches for label in labels] == [LABELS[i] for i in mine]


def test_small_images_are_decoded_once(root: Path) -> None:
    split = split_of(root, 24, "pad", training=False)
    sampling = Sampling(num_images=10, batch_size=10, seed=0)
    ((images, labels),) = split.load(sampling.micro_batches(0, 1))
    order = sampling.order(0).tolist()
    assert labels.tolist() == [LABELS[i] for i in order]
    four = decoded(4)  # 24 x 24 pixels
    np.testing.assert_array_equal(images[order.index(4)].permute(1, 2, 0).numpy(), four)


def test_results_tell_sets_of_other_pixels_apart(root: Path) -> None:
    path = root / "train" / "index.json"
    index = json.loads(path.read_bytes())
    splits = {}
    for pixels in ("", "256 px, JPEG 95", "128 px, JPEG 95", None):
        path.write_text(json.dumps(index | {"pixels": pixels}))
        splits[pixels] = split_of(root, 16, "resized", training=True)
    assert splits[""].source == "shards"
    assert splits["256 px, JPEG 95"].source == "shards of 256 px, JPEG 95"
    other = json.loads(json.dumps(index))
    other["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(other))  # as an index from before pixels were described
    splits["other"] = split_of(root, 16, "resized", training=True)
    path.write_text(json.dumps(index))
    assert split_of(root, 16, "resized", training=True).source == splits[None].source
    for what in ("source", "digest"):
        assert len({getattr(split, what) for split in splits.values()}) == 5


def test_damaged_image_is_named(root: Path) -> None:
    data = opened(root)
    shard, offset, _ = data.places[5]
    path = root / "train" / data.shards[shard].name
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = b"no"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"the image 5\.jpg in .*part-2\.tar is damaged"):
        data.image(5)


def test_shards_that_change_under_a_reader(root: Path) -> None:
    data = opened(root)
    (root / "train" / "part-0.tar").unlink()
    with pytest.raises(InputError, match=r"part-0\.tar: No such file"):
        data.read(0)
    data.read(1)
    os.truncate(root / "train" / "part-1.tar", 700)
    with pytest.raises(InputError, match=r"part-1\.tar was cut off"):
        data.read(1)
    os.truncate(root / "train" / "part-2.tar", 700)
    with pytest.raises(InputError, match=r"part-2\.tar has 700 bytes"):
        data.read(2)


def test_files_are_closed(root: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    shards._open.cache_clear()
    before = count()
    data = opened(root)
    for number in range(10):
        data.read(number)
    assert count() == before + 3
    shards._open.cache_clear()
    assert count() == before


# ---- what an index may say ----


def change(path: str, value: object) -> Callable[[Index], object]:
    """Replace an entry such as samples.offset.3."""

    def apply(index: Index) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        node: Any = index
        for key in parents:
            node = node[key]
        node[last] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("format", 2), "its format is not 1"),
        (change("shards.1.name", "../part-1.tar"), "a shard is called '../part-1.tar'"),
        (change("shards.1.name", "a.tar; rm x"), "a shard is called"),
        (change("shards.1.name", "-rf"), "a shard is called"),
        (change("shards.1.name", 7), "a shard is called 7"),
        (change("shards.1.name", "part-0.tar"), "two shards have the same name"),
        (change("shards.1.bytes", 20480.0), "part-1.tar lacks bytes"),
        (change("shards.1", {"name": "x.tar"}), "no 'bytes'"),
        (lambda index: index["shards"][1].pop("sha256"), "no 'sha256'"),
        (change("shards.1.sha256", ""), "part-1.tar lacks bytes or sha256"),
        (change("classes", ["cat", "dog", 3]), "a class name is no text"),
        (change("classes", ["cat", "dog"]), r"a class is not in 0\.\.1"),
        (change("samples.class.0", -1), r"a class is not in 0\.\.2"),
        (change("samples.shard.0", 3), r"a shard is not in 0\.\.2"),
        (change("samples.shard.0", -1), r"a shard is not in 0\.\.2"),
        (change("samples.offset.4", 20470), "4.jpg would lie outside its shard part-1.tar"),
        (change("samples.offset.4", -1), "4.jpg would lie outside"),
        (change("samples.size.4", 20481), "4.jpg would lie outside"),
        (change("samples.size.4", -1), "4.jpg would lie outside"),
        (change("samples.offset.4", 2**63 - 1), "4.jpg would lie outside"),
        (change("samples.size.4", 2**63 - 1), "4.jpg would lie outside"),
        (change("samples.offset.4", 2**64), "four whole numbers"),
        (change("samples.offset.4", 512.5), "four whole numbers"),
        (change("samples.offset.4", "512"), "four whole numbers"),
        (change("samples.offset", [512] * 9), "four whole numbers"),
        (change("samples.offset", [[512]] * 10), "four whole numbers"),
        (change("samples.name.4", 4), "is no index of shards"),
        (change("samples.name", []), "four whole numbers"),
        (lambda index: index.pop("samples"), "no 'samples'"),
        (lambda index: index.update(pixels="256 px\n"), "not say in a few plain words"),
        (lambda index: index.update(pixels=256), "not say in a few plain words"),
    ],
)
def test_bad_index(tmp_path: Path, edit: Callable[[Index], object], message: str) -> None:
    folder = tmp_path / "train"
    index = write_shards(folder)
    edit(index)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message) as caught:
        read_index(folder)
    assert str(folder / "index.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", "[" * 100_000, '{"format": 1}'])
def test_index_that_is_none(root: Path, text: str) -> None:
    (root / "train" / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"index\.json is no index of shards"):
        opened(root)


def test_the_last_byte_of_a_shard_may_be_used(root: Path) -> None:
    index = json.loads((root / "train" / "index.json").read_text())
    size = index["shards"][1]["bytes"]
    index["samples"]["offset"][4], index["samples"]["size"][4] = size - 5, 5
    (root / "train" / "index.json").write_text(json.dumps(index))
    assert opened(root).read(4) == bytes(5)


def test_shards_that_do_not_fit_their_index(root: Path) -> None:
    path = root / "train" / "part-1.tar"
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        InputError, match=r"part-1\.tar has 20481 bytes, its index\.json says 20480"
    ):
        opened(root)
    path.unlink()
    with pytest.raises(InputError, match=r"part-1\.tar: No such file"):
        opened(root)


def test_tar_files_without_an_index(root: Path) -> None:
    (root / "train" / "index.json").unlink()
    with pytest.raises(InputError, match=r"make_shards\.py --index .*train"):
        load("imagenet", root, "train")


# ---- shards at a URL ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.5, failures=2, pause=0.01))
    return tmp_path / "cache"


def logged(root: Path) -> tuple[Path, Path]:
    """Return a URL that notes each file it is asked for, and where."""
    log = root.parent / "log"
    return Path(f"pipe:echo {{}} >> {log}; cat {root}/{{}}"), log


def test_each_file_is_fetched_once_when_it_is_needed(root: Path, cache: Path) -> None:
    url, log = logged(root)
    data = opened(url)
    assert log.read_text().split() == ["train/index.json"]
    assert [data.read(i) for i in (4, 1)] == [CONTENTS[4], CONTENTS[1]]
    assert log.read_text().split() == ["train/index.json", "train/part-1.tar"]
    again = opened(url)
    assert [again.read(i) for i in range(10)] == CONTENTS
    assert sorted(log.read_text().split()[2:]) == ["train/part-0.tar", "train/part-2.tar"]
    (folder,) = cache.iterdir()
    assert len([path for path in folder.iterdir() if not path.name.endswith(".lock")]) == 4


def test_a_shard_that_cannot_be_had_is_not_asked_for_by_every_image(
    root: Path, cache: Path
) -> None:
    for path in (root / "train").glob("*.tar"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    url, log = logged(root)
    data = opened(url)
    with pytest.raises(SourceError, match="gives another shard part-") as raised:
        decode(data, 8)
    assert str(raised.value).count("gives another shard") == 1
    # Once each, or once more where another thread began in the moment of the failure.
    assert len(log.read_text().split()) <= 1 + 2 * 3


def read_all(root: Path, results: "multiprocessing.Queue[bool]") -> None:
    data = opened(root)
    results.put([data.read(i) for i in range(10)] == CONTENTS)


def test_processes_fetch_each_file_once(root: Path, cache: Path) -> None:
    url, log = logged(root)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[bool] = context.Queue()
    shards._open.cache_clear()
    processes = [context.Process(target=read_all, args=(url, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert len(log.read_text().split()) == 4


def test_a_url_without_a_place_for_the_name(root: Path, cache: Path) -> None:
    data = opened(Path(f"file:{root}"))
    assert data.read(8) == CONTENTS[8]


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, r"gives another shard part-1.tar than the index says \(its SHA-256 differs\)"),
        (grow, "part-1.tar cannot be fetched: its command sends more than 20,480 bytes"),
        (lambda path: os.truncate(path, 5000), "command ends after 5,000 of 20,480 bytes"),
        (Path.unlink, r"command ends with exit code 1 \(.*No such file"),
    ],
)
def test_a_shard_that_is_not_the_one_of_the_index(
    root: Path,
    cache: Path,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    data = opened(Path(f"pipe:cat {root}/{{}}"))
    spoil(root / "train" / "part-1.tar")
    with pytest.raises(InputError, match=message):
        data.read(1)
    left = [path.name for path in data.folder.iterdir() if "part-1" in path.name]
    assert left == [".part-1.tar.lock"]
    assert data.read(0) == CONTENTS[0]


def test_no_more_is_taken_than_the_index_says(root: Path, cache: Path, tmp_path: Path) -> None:
    text, taken = (root / "train" / "index.json").read_text(), tmp_path / "taken"
    much = f"head -c 20000000 /dev/zero && touch {taken}"
    url = Path(f"pipe:if [ {{}} = train/index.json ]; then echo '{text}'; else {much}; fi")
    with pytest.raises(InputError, match="sends more than 20,480 bytes"):
        opened(url).read(0)
    assert not taken.exists()


class Wayward(SimpleHTTPRequestHandler):
    """Serves a folder. Of a first answer half comes, and none of the next until the client left."""

    asked: list[str]

    def __init__(self, asked: list[str], *args: Any, directory: Path) -> None:
        self.asked = asked
        super().__init__(*args, directory=str(directory))

    def log_message(self, *args: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        self.asked.append(self.path)
        times = self.asked.count(self.path)
        if times == 1:
            outputfile.write(source.read(10_000))
        elif times == 2:
            self.rfile.read(1)
        else:
            super().copyfile(source, outputfile)
        self.close_connection = True


def test_a_server_that_cuts_and_stalls_is_borne(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloading, "PATIENCE", Patience(silence=0.3, pause=0.01))
    asked: list[str] = []
    handler = partial(Wayward, asked, directory=root)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        data = opened(Path(f"http://127.0.0.1:{server.server_port}/"))
        assert data.read(1) == CONTENTS[1]
        server.shutdown()
    assert asked.count("/train/part-1.tar") == 3
    told = capsys.readouterr().out.splitlines()
    assert told[-1].endswith("/train/part-1.tar sends nothing for 0.3 s: trying again in 0.01 s")


def age(data: ShardSet) -> None:
    """Make the index as old as one of an earlier start."""
    os.utime(data.folder / "index.json", (0, 0))


def test_shards_that_were_made_anew_are_noticed(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, log = logged(root)
    data = opened(url)
    assert [data.read(i) for i in range(10)] == CONTENTS
    # Another image of the same size: only digests tell the shards apart.
    path = root / "train" / "part-1.tar"
    content = path.read_bytes()
    swapped = bytes(reversed(CONTENTS[4]))
    path.write_bytes(content.replace(CONTENTS[4], swapped))
    index = json.loads((root / "train" / "index.json").read_text())
    index["shards"][1]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / "train" / "index.json").write_text(json.dumps(index))
    age(data)
    log.unlink()
    capsys.readouterr()
    data = opened(url)
    assert capsys.readouterr().out == (
        "the shards were rebuilt: 1 of the 3 fetched before are not among them and were removed "
        f"from {data.folder}\n"
    )
    assert [data.read(i) for i in range(10)] == [*CONTENTS[:4], swapped, *CONTENTS[5:]]
    assert log.read_text().split() == ["train/index.json", "train/part-1.tar"]
    age(data)
    opened(url)  # the same again: nothing to tell
    assert capsys.readouterr().out == ""


def test_without_its_source_a_cache_serves(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, log = logged(root)
    data = opened(url)
    assert data.read(1) == CONTENTS[1]
    (root / "train" / "index.json").rename(root / "away")
    age(data)
    for _ in range(2):  # once told, the other processes do not wait for it again
        data = opened(url)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2  # it was tried twice
    assert "exit code 1 (cat: " in told[1]
    assert told[1].endswith(f": continuing with what was fetched before, in {data.folder}")
    assert data.read(4) == CONTENTS[4]


@pytest.mark.parametrize("first", [True, False])
def test_an_answer_that_is_no_index_changes_nothing(root: Path, cache: Path, first: bool) -> None:
    url = Path(f"pipe:cat {root}/{{}}")
    if not first:
        data = opened(url)
        data.read(1)
        age(data)
    (root / "train" / "index.json").write_text("<html>We have moved</html>")
    with pytest.raises(InputError, match="index of shards at its command is no index of shards"):
        opened(url)
    there = [path.name for path in cache.rglob("*") if path.suffix in (".tar", ".json")]
    assert sorted(there) == ([] if first else ["index.json", "part-1.tar"])


def test_what_a_killed_process_left_is_removed(root: Path, cache: Path) -> None:
    data = opened(Path(f"pipe:cat {root}/{{}}"))
    stale = data.folder / ".part-1.tar.0badcafe.tmp"
    stale.write_bytes(b"half")
    data.read(1)
    assert not stale.exists()


def test_unusable_urls(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unknown = (
        "s3://bucket/x/train/index.json does not answer .unknown url type: s3: give pipe:COMMAND"
    )
    with pytest.raises(InputError, match=unknown):
        opened(Path("s3://bucket/x"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHARD_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="could not be written.*set SHARD_CACHE to another"):
        opened(Path(f"pipe:cat {root}/{{}}"))
    monkeypatch.delenv("SHARD_CACHE")
    with pytest.raises(InputError, match="set SHARD_CACHE to a folder"):
        opened(Path(f"pipe:cat {root}/{{}}"))


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a/b",
        "http://host:8000/a",
        "gs://bucket/a",
        "pipe:aws s3 cp s3://bucket/a/{} -",
        "pipe:curl -s -L https://host/a/{}",
        "pipe:cat /data/{}",
    ],
)
def test_urls_survive_being_paths(url: str) -> None:
    assert shards._url(Path(url)) == url


def test_folders_are_no_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:x").mkdir()
    for path in ("data", "/data/http:", "data:x", "."):
        assert shards._url(Path(path)) is None
