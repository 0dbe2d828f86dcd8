"""What distinguishes the data of a training, for its resume."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from common.runs.data_parts import IMAGES, digest, file_sizes
from detect.data.dataset import LabelledImage


def data_parts(
    classes: Sequence[str], train: Sequence[LabelledImage], val: Sequence[LabelledImage]
) -> dict[str, str]:
    """Return the parts of the data that a resume must find as they were.

    Args:
        classes: In the order of the labels.
        train: Training images.
        val: Validation images, perhaps none.
    """
    # As older versions have it in their checkpoints.
    listed = "\n".join(_ids(train)).encode(errors="surrogatepass")
    return {
        "class list": ", ".join(classes),
        IMAGES: blake2b(listed, digest_size=8).hexdigest(),
        "annotations of the training images": digest(_objects(train)),
        **file_sizes([image.path for image in train]),
        "validation images": digest(_ids(val)),
        "annotations of the validation images": digest(_objects(val)),
    }


def _ids(images: Sequence[LabelledImage]) -> list[str]:
    return [image.annotation.image_id for image in images]


def _objects(images: Sequence[LabelledImage]) -> Iterator[bytes]:
    """Yield size, boxes, labels and marks of each image."""
    for image in images:
        found = image.annotation
        yield f"{found.width} {found.height}".encode()
        yield from (found.boxes.tobytes(), found.labels.tobytes(), found.difficult.tobytes())
