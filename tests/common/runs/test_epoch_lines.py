"""The lines of the epochs, as a person reads them."""

import pytest

from common.runs.epoch_lines import (
    MEMORY,
    OF_EVERY_TRAINING,
    Column,
    four_digits,
    head,
    line,
    short,
)
from detect.task import COLUMNS as DETECT
from pretrain.task import COLUMNS as PRETRAIN

RECORD = {
    "epoch": 7,
    "train_loss": 12.3456,
    "train_accuracy": 0.12345,
    "train_classification": 0.5,
    "train_box": 0.25,
    "val_loss": 1.5,
    "val_accuracy": 1.0,
    "val_top5": None,
    "val_map_11point": 0.7014,
    "val_map_area": 0.71,
    "val_coco_ap": 0.4,
    "lr": 9.6e-06,
    "images_per_second": 1234.5,
    "seconds": 4000.0,
    "gpu_memory_gib": 71.25,
}


def test_columns_are_aligned_under_a_head_that_says_the_units_once() -> None:
    columns = (*PRETRAIN, *OF_EVERY_TRAINING)
    printed = f"{head(columns, 10)}\n{line(RECORD, columns, 10, best=True)}".splitlines()
    assert printed == [
        "       ---- train ----  -------- val ---------",
        "epoch   loss  accuracy   loss  accuracy  top-5       lr  images/s     time",
        "                     %                %      %",
        " 7/10  12.35     12.35  1.500     100.0      -  9.6e-06      1234  1:06:40 best",
    ]


@pytest.mark.parametrize("own", [PRETRAIN, DETECT])
@pytest.mark.parametrize("memory", [(), (MEMORY,)])
@pytest.mark.parametrize("epochs", [3, 300])
def test_all_fits_into_80_columns(
    own: tuple[Column, ...], memory: tuple[Column, ...], epochs: int
) -> None:
    columns = (*own, *OF_EVERY_TRAINING, *memory)
    lines = [*head(columns, epochs).splitlines(), line(RECORD, columns, epochs, best=True)]
    assert max(map(len, lines)) <= 80
    plain = line(RECORD, columns, epochs, best=False)
    assert len(plain) == len(lines[1])
    assert len(plain.split()) == len(columns) + 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000"), (9.9994, "9.999"), (99.99, "99.99"), (123.45, "123.5"), (1e9, "1e+09")],
)
def test_numbers_keep_four_digits(value: float, shown: str) -> None:
    assert four_digits(value) == shown


def test_a_value_in_a_sentence() -> None:
    assert short("val_accuracy", 0.345, PRETRAIN) == "val accuracy 34.50%"
    assert short("val_map_11point", None, DETECT) == "val mAP 11-pt -"
    assert short("val_score", 0.5, ()) == "val_score 0.500"
