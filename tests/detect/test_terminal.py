"""What a person sees on a terminal of 80 columns."""

from collections.abc import Callable
from pathlib import Path

import pytest

from detect import __main__ as command

pytestmark = pytest.mark.usefixtures("narrow_bodies")
TESTED = "--data voc --split 2007:test"
COMMANDS = {
    "train": "train toy-retinanet --backbone scratch --data voc --train-split 2007:trainval "
    "--val-split 2007:test --out run --detector.train-sizes 64 --detector.test-size 64 "
    "--detector.max-size 64 --detector.fpn-channels 16 --optimization.batch-size 3 "
    "--optimization.epochs 2 --workers 0 --device cpu",
    "evaluate": f"evaluate --run run {TESTED} --out run/test --workers 0",
    "score": f"score --detections run/test/voc {TESTED} --out scored --against run/test",
    "predict": "predict --run run --images photos --out found --workers 0",
    "compare": "compare --baseline run/test --against scored --out both",
    "report": "report run/test scored --out report.html",
    "help": "train --help",
    "refused": "evaluate --run run --data nowhere --out never",
}


def test_no_line_of_any_command_is_longer_than_80_columns(
    toy_devkit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_command: Callable[..., tuple[int, str, str]],
) -> None:
    """From a training to a comparison; paths are short, for they are not broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "voc").symlink_to(toy_devkit)
    (tmp_path / "photos").symlink_to(next(toy_devkit.glob("*/JPEGImages")))
    for name, words in COMMANDS.items():
        code, out, err = call_command(command, *words.split())
        assert code == (2 if name == "refused" else 0), err
        lines = (out + err).splitlines()
        assert lines, name
        assert [line for line in lines if len(line) > 80] == [], name
        if name == "train":
            following = out[out.index("next  ") + len("next  ") :].replace(" \\\n", " ")
            assert following.split()[:5] == "python -m detect evaluate --run".split()
