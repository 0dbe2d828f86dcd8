"""The same images and objects as a VOC devkit, a VOC export, COCO and YOLO."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("helmet", "vest", "head gear")
WIDTH, HEIGHT = 64, 48
Objects = dict[str, list[tuple[int, int, int, int, int]]]
"""Stem to objects: label, then x1, y1, x2, y2 edges in pixels from 0."""


def draw_objects(count: int = 6) -> Objects:
    """One bright box per image, and a second one in every third."""
    rng = np.random.default_rng(0)
    found: Objects = {}
    for number in range(count):
        x, y = (int(v) for v in rng.integers(0, 16, 2))
        objects = [(number % 2, x, y, x + 23, y + 24)]
        if number % 3 == 0:
            objects.append((2, 0, 0, WIDTH, 17))
        found[f"img_{number:03}"] = objects
    return found


def draw_pictures(folder: Path, objects: Objects) -> None:
    """Write a JPEG for each stem."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for stem, boxes in objects.items():
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for label, x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2, label] = 255
        cv2.imwrite(str(folder / f"{stem}.jpg"), pixels)


def voc_xml(stem: str, boxes: list[tuple[int, int, int, int, int]]) -> str:
    """An annotation in VOC's 1-based pixels."""
    items = "".join(
        f"<object><name>{CLASSES[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation><filename>{stem}.jpg</filename>{size}{items}</annotation>"


def sets(objects: Objects) -> dict[str, Objects]:
    """The last two validate."""
    stems = list(objects)
    return {
        "train": {stem: objects[stem] for stem in stems[:-2]},
        "val": {stem: objects[stem] for stem in stems[-2:]},
    }


def write_voc(root: Path, objects: Objects, year: str = "VOC2024") -> Path:
    """A devkit; without a year, an export as CVAT writes it."""
    folder = root / year
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    draw_pictures(folder / "JPEGImages", objects)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for stem, boxes in objects.items():
        (folder / "Annotations" / f"{stem}.xml").write_text(voc_xml(stem, boxes))
    for name, part in sets(objects).items():
        (folder / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(part) + "\n")
    return root


def write_roboflow_voc(root: Path, objects: Objects) -> Path:
    """Folders of a set each, XML beside the images."""
    for name, part in sets(objects).items():
        draw_pictures(root / name, objects)
        for stem in objects:
            if stem not in part:
                (root / name / f"{stem}.jpg").unlink()
        for stem, boxes in part.items():
            (root / name / f"{stem}.xml").write_text(voc_xml(stem, boxes))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def coco_json(part: Objects, first: int = 7) -> dict[str, object]:
    """COCO's form, with ids that begin anywhere, a supercategory and a background of no object."""
    images = [
        {"id": first + n, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT}
        for n, stem in enumerate(part)
    ]
    annotations = [
        {
            "id": 1000 + len(part) * n + k,
            "image_id": first + n,
            "category_id": (3, 5, 90)[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": 7.5,
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2]],
        }
        for n, boxes in enumerate(part.values())
        for k, (label, x1, y1, x2, y2) in enumerate(boxes)
    ]
    numbers = {3: "helmet", 5: "vest", 90: "head gear"}
    categories = [
        {"id": 0, "name": "gear", "supercategory": "none"},
        *({"id": k, "name": n, "supercategory": "gear"} for k, n in numbers.items()),
        {"id": 99, "name": "background"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, objects: Objects) -> Path:
    """annotations/instances_<set>.json beside images/."""
    draw_pictures(root / "images", objects)
    (root / "annotations").mkdir()
    for name, part in sets(objects).items():
        path = root / "annotations" / f"instances_{name}.json"
        path.write_text(json.dumps(coco_json(part)))
    return root


def yolo_lines(boxes: list[tuple[int, int, int, int, int]], digits: int = 6) -> str:
    """Shares of the image, with the usual six decimals."""
    return "".join(
        f"{label} {(x1 + x2) / 2 / WIDTH:.{digits}f} {(y1 + y2) / 2 / HEIGHT:.{digits}f} "
        f"{(x2 - x1) / WIDTH:.{digits}f} {(y2 - y1) / HEIGHT:.{digits}f}\r\n"
        for label, x1, y1, x2, y2 in boxes
    )


def write_yolo(root: Path, objects: Objects) -> Path:
    """data.yaml with images/ and labels/, a folder per set."""
    for name, part in sets(objects).items():
        draw_pictures(root / "images" / name, objects)
        (root / "labels" / name).mkdir(parents=True)
        for stem, boxes in objects.items():
            if stem in part:
                (root / "labels" / name / f"{stem}.txt").write_text(yolo_lines(boxes))
            else:
                (root / "images" / name / f"{stem}.jpg").unlink()
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )
    return root


def write_export(root: Path, objects: Objects) -> Path:
    """One year of a devkit, without the year."""
    made = write_voc(root / "made", objects)
    shutil.copytree(made / "VOC2024", root, dirs_exist_ok=True)
    shutil.move(made / "classes.txt", root / "classes.txt")
    shutil.rmtree(made)
    return root


def oriented(pixels: NDArray[np.uint8], orientation: int) -> bytes:
    """A JPEG that states an EXIF orientation."""
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, *[0] * 7])
    segment = b"Exif\0\0" + tiff
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


WRITERS = {
    "devkit": write_voc,
    "export": write_export,
    "roboflow": write_roboflow_voc,
    "coco": write_coco,
    "yolo": write_yolo,
}
