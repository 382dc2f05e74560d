"""Hostile pictures, in imagefolders."""

import struct
import zlib
from pathlib import Path

from PIL import Image, PngImagePlugin

from tests.hub.hostile.kinds import SECRET, kind, picture, png, row, write_pictures, write_rows


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _claimed(width: int, height: int, pixels: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def _saved(image: Image.Image, folder: Path, suffix: str, **options: object) -> None:
    place = folder / f"a{suffix}"
    image.save(place, **options)
    write_pictures(folder, place.read_bytes(), suffix=suffix)


@kind("picture_pixels")
def png_of_60000_pixels_square(folder: Path) -> None:
    write_pictures(folder, _claimed(60_000, 60_000, b"\0" * 1_000_000))


@kind("picture_pixels")
def png_of_one_line_of_2_billion_pixels(folder: Path) -> None:
    write_pictures(folder, _claimed(2**31 - 1, 1, b"\0"))


@kind("picture_pixels")
def jpeg_of_65500_pixels_square(folder: Path) -> None:
    picture().save(folder / "a.jpg")
    data = (folder / "a.jpg").read_bytes()
    place = data.index(b"\xff\xc0") + 5
    write_pictures(folder, data[:place] + struct.pack(">HH", 65_500, 65_500) + data[place + 4 :], suffix=".jpg")


@kind("picture_broken")
def png_with_too_much_pixel_data(folder: Path) -> None:
    write_pictures(folder, _claimed(64, 64, b"")[:33] + chunk(b"IDAT", b"\xff" * 60_000) + chunk(b"IEND", b""))


@kind("picture_broken")
def png_cut_off(folder: Path) -> None:
    data = png(picture())
    write_pictures(folder, data[: len(data) // 2])


@kind("picture_broken")
def png_that_is_a_page(folder: Path) -> None:
    write_pictures(folder, b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script></html>")


@kind("picture_trailing_data")
def png_with_a_zip_behind(folder: Path) -> None:
    write_pictures(folder, png(picture()) + b"PK\x03\x04" + SECRET.encode() * 50)


@kind("picture_trailing_data")
def jpeg_with_a_page_behind(folder: Path) -> None:
    picture().save(folder / "a.jpg")
    write_pictures(folder, (folder / "a.jpg").read_bytes() + b"<script>alert(1)</script>", suffix=".jpg")


@kind("picture_format")
def gif_named_png(folder: Path) -> None:
    picture().save(folder / "a.gif")
    data = (folder / "a.gif").read_bytes()
    (folder / "a.gif").unlink()
    write_pictures(folder, data)


@kind("picture_format")
def svg_named_png(folder: Path) -> None:
    write_pictures(folder, b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')


@kind("picture_format")
def postscript_named_png(folder: Path) -> None:
    write_pictures(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")


@kind("picture_animated")
def png_of_three_frames(folder: Path) -> None:
    _saved(picture(), folder, ".png", save_all=True, append_images=[picture(2), picture(3)])


@kind("picture_animated")
def webp_of_three_frames(folder: Path) -> None:
    _saved(picture(), folder, ".webp", save_all=True, append_images=[picture(2), picture(3)])


@kind("picture_transparent")
def png_with_a_hidden_picture(folder: Path) -> None:
    image = picture().convert("RGBA")
    image.putalpha(0)
    write_pictures(folder, png(image))


@kind("picture_mode")
def png_of_16_bits(folder: Path) -> None:
    write_pictures(folder, png(Image.new("I;16", (64, 64), 4_000)))


@kind("picture_too_small")
def png_of_one_pixel(folder: Path) -> None:
    write_pictures(folder, png(Image.new("RGB", (1, 1))))


@kind("picture_too_large")
def png_of_20_megabytes(folder: Path) -> None:
    data = png(picture())
    write_pictures(folder, data[:33] + chunk(b"juNk", b"\0" * 20_000_000) + data[33:])


@kind("black_picture")
def png_that_is_black(folder: Path) -> None:
    write_pictures(folder, png(Image.new("RGB", (64, 64), (3, 3, 3))))


@kind("flat_picture")
def png_of_one_colour(folder: Path) -> None:
    write_pictures(folder, png(Image.new("RGB", (64, 64), (200, 30, 90))))


@kind("same_pictures")
def the_same_picture_in_two_encodings(folder: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", SECRET)
    write_pictures(folder, png(picture()), png(picture(), compress_level=1, pnginfo=info))


@kind("picture_sizes_differ")
def pictures_of_two_sizes(folder: Path) -> None:
    write_pictures(folder, png(picture(side=64)), png(picture(1, side=128)))


@kind("picture_missing")
def picture_that_is_not_there(folder: Path) -> None:
    write_rows(folder, row(unsafe_file_name=f"{SECRET}.png", safe_file_name="b.png"), name="metadata.jsonl")
    (folder / "b.png").write_bytes(png(picture()))


@kind("picture_outside")
def picture_above_the_folder(folder: Path) -> None:
    write_rows(folder, row(unsafe_file_name="../a.png", safe_file_name="b.png"), name="metadata.jsonl")
    (folder / "b.png").write_bytes(png(picture()))


@kind("picture_outside")
def picture_by_an_absolute_path(folder: Path) -> None:
    write_rows(folder, row(unsafe_file_name="/etc/hostname", safe_file_name="b.png"), name="metadata.jsonl")
    (folder / "b.png").write_bytes(png(picture()))


@kind("picture_outside")
def picture_on_another_drive(folder: Path) -> None:
    write_rows(folder, row(unsafe_file_name="C:\\a.png", safe_file_name="b.png"), name="metadata.jsonl")
    (folder / "b.png").write_bytes(png(picture()))


@kind("picture_link", pushable=False)
def picture_that_is_a_link(folder: Path) -> None:
    write_pictures(folder, png(picture()))
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("/etc/hostname")


@kind("picture_without_row")
def picture_that_no_row_names(folder: Path) -> None:
    write_pictures(folder, png(picture()))
    (folder / "c.png").write_bytes(png(picture(3)))
