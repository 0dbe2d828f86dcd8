"""Reading images: pixels against Pillow's decoder, and files that must be refused."""

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.images import IMAGENET_MEAN, IMAGENET_STD, read_image

# Orientation 6: "turn by 90 degrees". APP1, length 34, "Exif", little-endian TIFF of one entry.
EXIF_TURNED = (
    b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
)


def picture(height=48, width=64):
    """A smooth colour image, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x - y], axis=2).astype(np.uint8)


def encoded(image, suffix=".jpg"):
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


@pytest.fixture
def write(tmp_path):
    def write_bytes(data):
        path = tmp_path / "0001.jpg"
        path.write_bytes(data)
        return path

    return write_bytes


def test_png_pixels_come_back_in_rgb_order(write):
    image = picture()
    pixels = read_image(write(encoded(image, ".png")))
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    assert np.array_equal(pixels, image)


def test_jpeg_agrees_with_pillow(write):
    path = write(encoded(picture()))
    with Image.open(path) as file:
        expected = np.asarray(file.convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 3  # two builds of libjpeg


def test_grey_becomes_three_equal_channels(write):
    pixels = read_image(write(encoded(picture()[:, :, 0], ".png")))
    assert np.array_equal(pixels, np.repeat(picture()[:, :, :1], 3, axis=2))


def test_cmyk_becomes_rgb(write, tmp_path):
    path = tmp_path / "0001.jpg"
    with Image.fromarray(np.full((16, 16, 3), (200, 100, 50), np.uint8)) as rgb:
        rgb.convert("CMYK").save(path)
    assert np.abs(read_image(path).astype(int) - (200, 100, 50)).max() <= 4


def test_exif_orientation_is_ignored(write):
    plain = encoded(picture())
    turned = plain[:2] + EXIF_TURNED + plain[2:]
    path = write(turned)
    assert cv2.imread(str(path)).shape == (64, 48, 3)  # the tag works: OpenCV turns by default
    assert read_image(path).shape == (48, 64, 3)
    assert np.array_equal(read_image(path), read_image(write(plain)))


@pytest.mark.parametrize("padding", [b"\0" * 700, b"\n", b"\xff" * 16])
def test_padding_after_the_end_is_accepted(write, padding):
    plain = encoded(picture())
    expected = read_image(write(plain))
    assert np.array_equal(read_image(write(plain + padding)), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_cut_anywhere_is_refused(write, suffix):
    noisy = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(noisy, suffix)
    assert read_image(write(data)).shape == (24, 24, 3)
    for cut in [*range(0, len(data) - 12, 29), len(data) - 12]:
        path = write(data[:cut])
        with pytest.raises(InputError, match=r"0001\.jpg"):
            read_image(path)


def test_a_jpeg_cut_within_its_scan_is_refused_even_if_its_thumbnail_is_complete(write):
    """Found by its bytes, not left to OpenCV, whose versions differ."""
    thumbnail, image = encoded(picture(8, 8)), encoded(picture())
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    for whole in (image, image[:2] + segment + image[2:]):
        assert read_image(write(whole)).shape == (48, 64, 3)
        for missing in (1, 2, 3, 50, 200):
            path = write(whole[:-missing])
            with pytest.raises(InputError, match=r"0001\.jpg is cut off"):
                read_image(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>not found</html>", "not an image"), (b"\xff\xd8\xff\xd9", "damaged")],
)
def test_what_is_not_an_image_is_refused(write, data, reason):
    with pytest.raises(InputError, match=rf"0001\.jpg.*{reason}|{reason}.*0001\.jpg") as caught:
        read_image(write(data))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_image(path)


def test_an_image_of_absurd_size_is_refused(write):
    data = bytearray(encoded(picture()))
    frame = data.index(b"\xff\xc0")  # marker, length (2 bytes), precision (1), height, width
    data[frame + 5 : frame + 9] = (65500).to_bytes(2) * 2
    with pytest.raises(InputError, match=r"refuses the image .*0001\.jpg") as caught:
        read_image(write(bytes(data)))
    assert "\n" not in str(caught.value)


def test_imagenet_statistics_match_the_published_8_bit_ones():
    # Mean and deviation in 8-bit units as detectron2 and mmdetection publish them.
    assert np.allclose(np.array(IMAGENET_MEAN) * 255, [123.675, 116.28, 103.53])
    assert np.allclose(np.array(IMAGENET_STD) * 255, [58.395, 57.12, 57.375])
