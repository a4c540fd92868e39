"""Read text files in the encoding that their bytes suggest: UTF-8, UTF-16, GB18030 or cp1252."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from detrkit.data.validation.findings import Findings
from detrkit.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; UTF-32 before UTF-16, whose mark is a prefix of it."""
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_SAMPLE = 4096


def read_text(path: Path, findings: Findings | None = None) -> str:
    """Read a text file.

    Args:
        path: the file.
        findings: takes a finding if the file is not UTF-8, since its encoding is a guess then.

    Raises:
        DataError: the file holds no text, or cannot be read.
    """
    text, encoding = decode_text(read_bytes(path), path)
    if findings is not None and encoding != "utf-8":
        findings.add("text_encoding", path, detail=f"read as {encoding}")
    return text


def read_json(path: Path, findings: Findings | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        findings: see `read_text`.

    Raises:
        DataError: the file cannot be read, or is no JSON, or is nested too deeply to be read.
    """
    text, encoding = decode_text(read_bytes(path), path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"expected JSON in {path}, found a mistake at line {error.lineno}, column {error.colno}: {error.msg}; "
            "the file may be cut short, write or copy it again"
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"expected JSON text in {path}, found something else: {error}"[:300]) from None
    if findings is not None and encoding != "utf-8":
        findings.add("text_encoding", path, detail=f"read as {encoding}")
    return content


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def unreadable(path: Path) -> str:
    """The system's reason why a file cannot be read; empty if it can."""
    try:
        path.open("rb").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def read_lines(path: Path, findings: Findings | None = None) -> list[str]:
    """Read the lines of a text file, stripped and without empty ones; none if the file cannot be read.

    Args:
        path: the file.
        findings: takes a finding if the file cannot be read or is not UTF-8.

    Raises:
        DataError: the file holds no text.
    """
    if why := unreadable(path):
        if findings is not None:
            findings.add("file_unreadable", path, detail=why)
        return []
    return [line.strip() for line in read_text(path, findings).splitlines() if line.strip()]


def decode_text(data: bytes, source: object) -> tuple[str, str]:
    """Decode text, and return it with the name of its encoding (`utf-8` if that is certain).

    A byte order mark decides; then UTF-8; then UTF-16, which has zeros in every second byte; then GB18030 (Chinese
    Windows), whose letters take two bytes, or cp1252 (western Windows), whose accented letters mostly stand alone.

    Args:
        data: the bytes of the file.
        source: the file, for the message.

    Raises:
        DataError: the bytes are no text in any of these encodings.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), "utf-8" if encoding == "utf-8-sig" else encoding
            except UnicodeDecodeError:
                break
    if b"\0" in data[:_SAMPLE]:
        candidates = ["utf-16-le" if data[1:_SAMPLE:2].count(0) > data[0:_SAMPLE:2].count(0) else "utf-16-be"]
        if max(data[0:_SAMPLE:2].count(0), data[1:_SAMPLE:2].count(0)) < len(data[:_SAMPLE]) // 4:
            candidates = []  # zeros at random positions: binary data
    else:
        try:
            return data.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            runs = _HIGH_BYTES.findall(data)
            alone = sum(len(run) == 1 for run in runs)
            candidates = ["cp1252", "gb18030"] if 2 * alone >= len(runs) else ["gb18030", "cp1252"]
    for encoding in candidates:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text):
            return text, encoding
    raise DataError(f"expected text in {source}, found bytes that are no UTF-8, UTF-16 or GB18030; save it as UTF-8")
