"""Files that are made to break decoders, or to exhaust memory or time, get a sentence each."""

from __future__ import annotations

import random
import struct
import time
import zlib

import numpy as np

from .conftest import Client, encode, noise, png, png_chunk

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def hostile(seed: int) -> bytes:
    """An image file with one kind of damage."""
    rng = random.Random(seed)
    image_format = FORMATS[seed % len(FORMATS)]
    options = {"progressive": True} if image_format == "JPEG" and seed % 4 == 1 else {}
    data = bytearray(encode(np.random.default_rng(seed).integers(0, 256, (24, 32, 3)), image_format, **options))
    head = min(len(data), 200)
    kind = seed // len(FORMATS) % 9
    if kind == 0:  # flipped bits anywhere
        for _ in range(rng.randint(1, 30)):
            data[rng.randrange(4, len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # ... of the header
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(4, head)] = rng.randrange(256)
    elif kind == 2:  # extreme numbers in the header
        at = rng.randrange(4, head - 4)
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01"])
    elif kind == 3:  # cut out
        at = rng.randrange(8, len(data) - 8)
        del data[at : at + rng.randint(1, len(data) // 3)]
    elif kind == 4:  # repeated
        at, length = rng.randrange(8, len(data) - 8), rng.randint(4, 400)
        data[at:at] = data[at : at + length] * rng.randint(1, 40)
    elif kind == 5:  # rubbish within
        at = rng.randrange(8, len(data) - 8)
        data[at:at] = rng.randbytes(rng.randint(1, 2000))
    elif kind == 6:  # rubbish after the signature
        data[12:] = rng.randbytes(rng.randint(0, 3000))
    elif kind == 7:  # another file's tail
        other = encode(noise(seed=seed), FORMATS[(seed + 1) % len(FORMATS)])
        data[len(data) // 2 :] = other[len(other) // 2 :]
    else:  # ended early, with the end of a whole file
        del data[rng.randrange(12, len(data) - 12) : -12]
    return bytes(data)


def special() -> dict[str, bytes]:
    """Files made by hand to exhaust memory or time."""
    endless = struct.pack("<4sIHHHIIHHIII", b"II*\0", 8, 2, 256, 3, 1, 9, 257, 3, 1, 9, 8)  # its next page is itself
    return {
        "bomb in a text of PNG": png(8, 8, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "bomb in a profile of PNG": png(8, 8, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "PNG of no pixels": png(0, 0, png_chunk(b"IDAT", zlib.compress(b""))),
        "chunk of 2 GB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR" + bytes(13),
        "TIFF page that follows itself": endless,
        "BMP of negative size": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, -9, -9, 1, 24, 0, 0, 0, 0, 0, 0),
        "BMP of 2 GB": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**31 - 1, 1, 1, 24, 0, 0, 0, 0, 0, 0),
        "GIF of 65,535 pixels a side": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x2c",
        "JPEG of 65,535 pixels a side": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xd9",
        "JPEG of signature alone": b"\xff\xd8\xff",
        "WebP of signature alone": b"RIFF\xff\xff\xff\xffWEBP",
    }


def test_hostile_files_get_a_sentence_each(client: Client) -> None:
    statuses: dict[int, int] = {}
    for seed in range(300):
        answer = client.predict(hostile(seed), "?threshold=0.9")
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status in (200, 413, 415, 422), (seed, answer)
        assert answer.status == 200 or answer.sentence, seed
    assert statuses[422] > 100
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(50_000_000)))
    assert client.predict(png(8, 8, pixels)).status == 200  # those beyond the image are not unpacked
    for name, data in special().items():
        started = time.perf_counter()
        answer = client.predict(data)
        assert answer.status in (413, 422), (name, answer)
        assert answer.sentence
        assert time.perf_counter() - started < 5, name
