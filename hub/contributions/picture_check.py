"""A hostile picture: its container is walked, its size is read, and only then it is decoded and encoded anew as PNG.

What comes out holds pixels and nothing else: no EXIF, no profile, no text, no second file behind the first. A PNG that
is already so is kept as it is, because encoding it again would take ten times as long as proving it. PNG also where a
JPEG came: a second JPEG would change the pixels that judges and training see. Runs in the reading process only."""

import io
import struct
import zlib

from hub.contributions.limits import Limits
from hub.contributions.schema import Picture

_PNG = b"\x89PNG\r\n\x1a\n"
_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
# Scans of a progressive JPEG; encoders write about ten, and each costs a pass over all pixels.
_MOST_SCANS = 64


class BadPicture(Exception):
    """A picture that is refused; `reason` is a code of `hub.contributions.reasons.PICTURES`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_picture(data: bytes, limits: Limits) -> tuple[Picture, list[str]]:
    """Check a picture and encode it anew.

    Args:
        data (`bytes`): of its file.
        limits (`Limits`): picture_bytes, pixels, side, least_side.

    Returns:
        The picture, and notes: `metadata_stripped`, `reencoded_pictures`.

    Raises:
        `BadPicture`: with the reason.
    """
    if len(data) > limits.picture_bytes:
        raise BadPicture("picture_too_large")
    if data.startswith(_PNG):
        kept, stripped, exact = _walk_png(data, limits)
    elif data.startswith(b"\xff\xd8\xff"):
        kept, stripped, exact = *_walk_jpeg(data, limits), False
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kept, stripped, exact = *_walk_webp(data, limits), False
    else:
        raise BadPicture("picture_format")
    picture, exact = _decode(kept, exact)
    notes = ["metadata_stripped"] if stripped else []
    return picture, notes if exact else [*notes, "reencoded_pictures"]


def _check_size(width: int, height: int, limits: Limits) -> None:
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise BadPicture("picture_pixels")
    if min(width, height) < limits.least_side:
        raise BadPicture("picture_too_small")


def _walk_png(data: bytes, limits: Limits) -> tuple[bytes, bool, bool]:
    """The file without chunks that hold no pixels, whether there were any, and whether it is RGB pixels alone."""
    at, kept, stripped = len(_PNG), [_PNG], False
    names: list[bytes] = []
    pixels: list[bytes] = []
    while True:
        # Length and name before the data of a chunk, and the checksum of name and data behind it (PNG, section 5.3).
        if at + 12 > len(data):
            raise BadPicture("picture_broken")
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise BadPicture("picture_broken")
        if name in _ANIMATION:
            raise BadPicture("picture_animated")
        if (name == b"IHDR") != (not names):
            raise BadPicture("picture_broken")
        if name == b"IHDR":
            if length != 13:
                raise BadPicture("picture_broken")
            width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, at + 8)
            _check_size(width, height, limits)
            if depth == 16:
                raise BadPicture("picture_mode")
        if name in _KEPT_CHUNKS:
            kept.append(data[at:end])
        elif name[:1].islower():
            stripped = True
        else:
            raise BadPicture("picture_broken")
        if name == b"IDAT":
            pixels.append(data[at + 8 : end - 4])
        names.append(name)
        at = end
        if name == b"IEND":
            if length:
                # What is kept as it is would keep whatever is hidden there.
                raise BadPicture("picture_trailing_data")
            break
    if at != len(data):
        raise BadPicture("picture_trailing_data")
    exact = (depth, colour, interlace) == (8, 2, 0) and set(names) <= {b"IHDR", b"IDAT", b"IEND"}
    if exact:
        # The stream must end with the last row: nothing can be hidden behind it.
        stream, size = zlib.decompressobj(), height * (1 + 3 * width)
        try:
            found = len(stream.decompress(b"".join(pixels), size + 1))
        except zlib.error:
            raise BadPicture("picture_broken") from None
        if found > size or stream.unused_data or stream.unconsumed_tail:
            raise BadPicture("picture_trailing_data")
        if found < size or not stream.eof:
            raise BadPicture("picture_broken")
    return b"".join(kept), stripped, exact


def _walk_jpeg(data: bytes, limits: Limits) -> tuple[bytes, bool]:
    """The file without its APPn and COM segments but JFIF's and Adobe's, and whether there were any."""
    at, kept, stripped, scans, sized = 2, [data[:2]], False, 0, False
    while True:
        if at + 2 > len(data) or data[at] != 0xFF:
            raise BadPicture("picture_broken")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            kept.append(data[at : at + 2])
            at += 2
            break
        if at + 4 > len(data):
            raise BadPicture("picture_broken")
        length = int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + length
        if length < 2 or end > len(data) or marker < 0xC0 or 0xD0 <= marker <= 0xD8:
            raise BadPicture("picture_broken")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8 or sized:
                raise BadPicture("picture_broken")
            depth, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            _check_size(width, height, limits)
            if depth != 8 or channels not in (1, 3):
                raise BadPicture("picture_mode")
            sized = True
        if (0xE0 <= marker <= 0xEF and marker not in (0xE0, 0xEE)) or marker == 0xFE:
            stripped = True
        else:
            kept.append(data[at:end])
        at = end
        if marker == 0xDA:
            scans += 1
            if scans > _MOST_SCANS or not sized:
                raise BadPicture("picture_broken")
            start, at = at, _end_of_scan(data, at)
            kept.append(data[start:at])
    if at != len(data):
        raise BadPicture("picture_trailing_data")
    return b"".join(kept), stripped


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the next marker is that ends the entropy-coded data: none of a stuffed byte and of restarts."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise BadPicture("picture_broken")
        if data[at + 1] == 0x00 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            return at


def _walk_webp(data: bytes, limits: Limits) -> tuple[bytes, bool]:
    """The file as it is, and whether it has chunks beside its pixels: decoding leaves those alone."""
    size = int.from_bytes(data[4:8], "little") + 8
    if size > len(data):
        raise BadPicture("picture_broken")
    if size < len(data):
        raise BadPicture("picture_trailing_data")
    at, names = 12, []
    while at < size:
        if at + 8 > size:
            raise BadPicture("picture_broken")
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        start, at = at + 8, at + 8 + length + length % 2
        if at > size:
            raise BadPicture("picture_broken")
        names.append(name)
        if name in (b"ANIM", b"ANMF"):
            raise BadPicture("picture_animated")
        if name == b"VP8X" and length == 10:
            if data[start] & 0x02:
                raise BadPicture("picture_animated")
            width, height = (1 + int.from_bytes(data[start + by : start + by + 3], "little") for by in (4, 7))
        elif name == b"VP8 " and length >= 10:
            width, height = (int.from_bytes(data[start + by : start + by + 2], "little") & 0x3FFF for by in (6, 8))
        elif name == b"VP8L" and length >= 5:
            bits = int.from_bytes(data[start + 1 : start + 5], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        else:
            continue
        _check_size(width, height, limits)
    if sum(name in (b"VP8 ", b"VP8L") for name in names) != 1:
        raise BadPicture("picture_broken")
    return data, bool(set(names) - {b"VP8X", b"VP8 ", b"VP8L", b"ALPH"})


def _decode(data: bytes, exact: bool) -> tuple[Picture, bool]:
    import numpy as np
    from PIL import Image

    from dataset_builder.keys import picture_hash
    from dataset_builder.picture_faults import fault_of
    from dataset_builder.pictures import to_png

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if getattr(image, "n_frames", 1) != 1:
                raise BadPicture("picture_animated")
            image.load()
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                levels = image.convert("RGBA").getchannel("A").histogram()
                if any(levels[:255]):
                    raise BadPicture("picture_transparent")
            elif image.mode not in ("RGB", "L", "P", "1"):
                raise BadPicture("picture_mode")
            exact = exact and image.mode == "RGB"
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError):
        raise BadPicture("picture_broken") from None
    fault = fault_of(np.asarray(pixels))
    png = data if exact else to_png(Image.frombytes("RGB", pixels.size, pixels.tobytes()))
    return Picture(png, pixels.width, pixels.height, picture_hash(pixels), fault), exact
