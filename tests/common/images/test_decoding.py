"""Reading images: pixels against Pillow's decoder, and files that must be refused."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from common.errors import InputError
from common.images.decoding import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    decode_image,
    read_image,
)
from common.images.headers import read_header

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


MODES = {
    "grey": ("L", "JPEG", {}),
    "CMYK": ("CMYK", "JPEG", {}),
    "RGB": ("RGB", "JPEG", {"progressive": True}),
    "palette": ("P", "PNG", {"transparency": 3}),
    "grey with alpha": ("LA", "PNG", {}),
    "RGB with alpha": ("RGBA", "PNG", {}),
    "bits": ("1", "PNG", {}),
    "16-bit grey": ("I;16", "PNG", {}),
    "GIF": ("P", "GIF", {}),
    "BMP": ("RGB", "BMP", {}),
    "BMP palette": ("P", "BMP", {}),
    "WebP": ("RGB", "WEBP", {"quality": 95}),
    "WebP lossless": ("RGB", "WEBP", {"lossless": True}),
    "WebP lossless alpha": ("RGBA", "WEBP", {"lossless": True}),
    "WebP alpha": ("RGBA", "WEBP", {"quality": 95}),
}
OURS = {
    "L": "grey",
    "1": "grey",
    "I;16": "16-bit grey",
    "P": "palette",
    "LA": "grey with alpha",
    "RGBA": "RGB with alpha",
}


def saved(path, mode, kind, options):
    image = picture()
    with Image.fromarray(image) as rgb:
        if mode == "I;16":
            Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(path, kind)
        elif mode in ("LA", "RGBA"):
            rgb.putalpha(Image.fromarray(image[..., 1]))
            rgb.convert(mode).save(path, kind, **options)
        else:
            rgb.convert(mode).save(path, kind, **options)
    return path


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_read_as_pillow_reads_it(tmp_path, name):
    mode, kind, options = MODES[name]
    path = saved(tmp_path / "0001.jpg", mode, kind, options)
    with Image.open(path) as file:
        header = read_header(path.read_bytes())
        assert (header.width, header.height) == file.size
        assert header.format.upper() == file.format
        assert header.mode == OURS.get(file.mode, file.mode)
        if mode == "I;16":
            expected = np.repeat(picture()[..., :1], 3, axis=2)
        else:
            expected = np.asarray(file.convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("name", MODES)
def test_a_header_cut_anywhere_is_none_or_right(tmp_path, name):
    data = saved(tmp_path / "x", *MODES[name]).read_bytes()
    whole = read_header(data)
    for cut in range(min(len(data), 700)):
        assert read_header(data[:cut]) in (None, whole)


def test_what_libjpeg_passes_over_hides_no_size(write):
    plain = encoded(picture())
    path = write(plain[:2] + b"\xff\x01junk\xff\x00\xff\xff\xfe\x00\x06\xff\xc0ab" + plain[2:])
    assert read_image(path).shape == (48, 64, 3)
    assert read_header(path.read_bytes()) == read_header(plain)


def test_a_header_of_endless_segments_is_given_up():
    """A second at most: such a file can have 256 MB."""
    assert read_header(b"\xff\xd8" + b"\xff\x01" * 10_000_000) is None
    assert read_header(b"\xff\xd8" + b"\xff" * 10_000_000) is None


def test_a_format_of_unknown_size_is_refused(tmp_path):
    with Image.fromarray(picture()) as image:
        image.save(tmp_path / "0001.jpg", "TIFF")
    with pytest.raises(InputError, match=r"0001\.jpg is of a format that is not read, TIFF: conv"):
        read_image(tmp_path / "0001.jpg")


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"P6\n4 4\n255\n", "netpbm"),
        (b'<svg xmlns="', "SVG"),
        (b"\0\0\0\x20ftypisom", None),
        (b"<html>", None),
    ],
)
def test_formats_that_are_not_read_are_named(start, name):
    told = f"of a format that is not read, {name}: convert it to PNG" if name else "damaged or not"
    with pytest.raises(ValueError, match=told):
        decode_image(start + bytes(99))


def test_a_jpeg_that_ends_before_its_pixels_begin_is_cut_off(write):
    whole = encoded(picture())
    with pytest.raises(InputError, match="is cut off .*: fetch it again"):
        read_image(write(whole[: whole.index(b"\xff\xda")]))


def test_opencv_says_nothing_itself(write, capfd):
    bmp = encoded(picture(), ".bmp")
    with pytest.raises(InputError, match="OpenCV cannot decode it"):
        read_image(write(bmp[: len(bmp) // 2]))
    assert capfd.readouterr() == ("", "")


def png(width, height, rows=b""):
    """A PNG of black 1-bit pixels, as small as it can be."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + crc

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def bomb(kind):
    if kind == "PNG":
        return png(9460, 9460, bytes(9460 * (1 + -(-9460 // 8))))
    if kind == "JPEG":
        data = bytearray(encoded(picture()))
        frame = data.index(b"\xff\xc0")  # marker, length (2 bytes), precision (1), height, width
        data[frame + 5 : frame + 9] = (9460).to_bytes(2) * 2
        return bytes(data)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HH", 9460, 9460) + bytes(20)
    return b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 9460, -9460, 1, 1) + bytes(80)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_decompression_bomb_is_refused_undecoded(write, monkeypatch, kind):
    assert 9459 * 9459 <= MAX_PIXELS < 9460 * 9460
    data = bomb(kind)
    assert len(data) < 20_000
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match=r"0001\.jpg is too large: 9460 x 9460 pixels") as caught:
        read_image(write(data))
    assert "\n" not in str(caught.value)


def test_a_row_too_long_for_opencv_is_no_traceback(write, capfd):
    with pytest.raises(InputError, match=r"0001\.jpg is (refused|damaged)"):
        read_image(write(png(2**21, 1, bytes(1 + 2**18))))


def test_a_large_file_a_pipe_and_a_device_are_refused_unread(tmp_path):
    large, pipe, device, loop = (tmp_path / f"{name}.jpg" for name in "abcd")
    large.touch()
    os.truncate(large, MAX_FILE_BYTES + 1)  # sparse: takes no room
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    reasons = ["too large: 268435457 bytes", "no regular file", "no regular file", "unreadable: .*"]
    for path, reason in zip((large, pipe, device, loop), reasons, strict=True):
        with pytest.raises(InputError, match=rf"{path.name} is {reason}"):
            read_image(path)


def test_imagenet_statistics_match_the_published_8_bit_ones():
    # Mean and deviation in 8-bit units as detectron2 and mmdetection publish them.
    assert np.allclose(np.array(IMAGENET_MEAN) * 255, [123.675, 116.28, 103.53])
    assert np.allclose(np.array(IMAGENET_STD) * 255, [58.395, 57.12, 57.375])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_upright_photo_is_turned_as_pillow_turns_it(kind, orientation):
    image = Image.fromarray(picture())
    exif = image.getexif()
    exif[0x112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), np.int16)
    found = decode_image(file.getvalue(), upright=True)
    assert found.shape == turned.shape
    assert np.abs(found - turned).max() <= 2
    assert decode_image(file.getvalue()).shape == (48, 64, 3)
