"""Read XML of annotation tools, whatever its encoding, namespaces and case, without executing anything in it."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree as ET

from detrkit.data.files.encodings import decode_text, read_bytes
from detrkit.data.validation.findings import Findings

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.:-]+)""")
_OF_WINDOWS = {"shift_jis": "cp932", "big5": "cp950", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949"}
"""Encoding -> the superset of it that Windows writes under the same name."""


class _PlainTree(ET.TreeBuilder):
    """Builds an XML tree without namespaces and with tags in lower case.

    A document type is an error: entity expansion attacks need one, and annotations do not.
    """

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        return super().start(_plain(tag), attrs)

    def end(self, tag: str, /) -> ET.Element:
        return super().end(_plain(tag))

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"a document type definition ({name}), which annotations do not need")


@lru_cache(maxsize=256)
def _plain(tag: str) -> str:
    return tag.rpartition("}")[2].lower()


def read_xml(xml_file: Path, findings: Findings) -> ET.Element:
    """Parse an xml file, also if its declared encoding is wrong or unknown; tags become lower case.

    Raises:
        ParseError, ValueError, LookupError, DataError: it is no XML, has a document type, or is no text.
    """
    data = read_bytes(xml_file)
    try:
        return ET.fromstring(data, ET.XMLParser(target=_PlainTree()))
    except (ET.ParseError, ValueError, LookupError):
        text, encoding = _decode(data, xml_file)
        text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
        tree = ET.fromstring(text, ET.XMLParser(target=_PlainTree()))
        if encoding != "utf-8":
            findings.add("text_encoding", xml_file, detail=f"read as {encoding}")
        return tree


def _decode(data: bytes, xml_file: Path) -> tuple[str, str]:
    """Decode the text of a file, and name its encoding: `utf-8` if no guess was needed.

    UTF-8 comes before the declared encoding, since programs that rewrite a file may keep a stale declaration.

    Raises:
        DataError: the file is no text.
    """
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig"), "utf-8"
    declared = _DECLARED.match(data)
    with suppress(UnicodeDecodeError, LookupError):
        if declared:
            codec = codecs.lookup(declared[1].decode()).name
            return data.decode(_OF_WINDOWS.get(codec, codec)), "utf-8"
    return decode_text(data, xml_file)
