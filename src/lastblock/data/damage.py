"""Damage in single texts: found, named and, where the original is certain, repaired.

Knows one text at a time, no labels and no files. Imports no torch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

# UTF-8 that was read as Windows-1252: "Ã©" for "é", "â€™" for an apostrophe. Each byte became a
# character, that of Windows-1252 or, where it has none, that of Latin-1.
_AS_READ = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(128, 256)}
_BYTE_OF = {character: byte for byte, character in _AS_READ.items()} | {
    chr(byte): byte for byte in range(128, 160)
}


def _any_of(first: int, last: int) -> str:
    letters = "".join(c for c, byte in _BYTE_OF.items() if first <= byte <= last)
    return f"[{re.escape(letters)}]"


_TAIL = _any_of(0x80, 0xBF)
_MOJIBAKE = re.compile(
    f"{_any_of(0xC2, 0xDF)}{_TAIL}"
    f"|{_any_of(0xE0, 0xEF)}{_TAIL}{{2}}"
    f"|{_any_of(0xF0, 0xF4)}{_TAIL}{{3}}"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad]")
_REPLACEMENT = re.compile("\ufffd")
_TAG = re.compile(
    r"</?(?:a|b|i|u|p|br|em|strong|div|span|table|tr|td|ul|ol|li|img|h[1-6]|font|script|style)"
    r"\b[^<>]{0,500}>",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6])\b[^<>]{0,500}>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{2,6}|#x[0-9a-f]{2,5}|amp|lt|gt|quot|apos|nbsp);", re.IGNORECASE)


@dataclass(frozen=True)
class Damage:
    """A kind of damage: how it is found, and how repaired (None: the original is lost)."""

    name: str
    says: str
    found: re.Pattern[str]
    repair: Callable[[str], str] | None
    ascii_too: bool = False  # whether a text of ASCII alone can have it


def _repair_mojibake(text: str) -> str:
    return _MOJIBAKE.sub(_reread, text)


def _reread(match: re.Match[str]) -> str:
    try:
        return bytes(_BYTE_OF[character] for character in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]


def _repair_control(text: str) -> str:
    return _CONTROL.sub(_control_meant, text)


def _control_meant(match: re.Match[str]) -> str:
    """Codes 128 to 159 are Windows-1252 that was read as Latin-1; the others mean nothing."""
    meant = _AS_READ.get(ord(match[0]), "")
    return meant if meant != match[0] else ""


def _remove_invisible(text: str) -> str:
    return _INVISIBLE.sub("", text)


def _remove_html(text: str) -> str:
    return html.unescape(_TAG.sub(" ", _BREAK.sub("\n", text)))


# In the order of repair: UTF-8 read as something else makes control characters too.
KINDS = (
    Damage("mojibake", "UTF-8 that was read as Windows-1252", _MOJIBAKE, _repair_mojibake),
    Damage("replacement", "U+FFFD, the sign of a lost character", _REPLACEMENT, None),
    Damage("control", "control characters", _CONTROL, _repair_control, ascii_too=True),
    Damage("invisible", "invisible characters", _INVISIBLE, _remove_invisible),
    Damage("html_tags", "HTML tags", _TAG, _remove_html, ascii_too=True),
    Damage("html_entities", "HTML entities", _ENTITY, _remove_html, ascii_too=True),
)


def damages(text: str) -> list[Damage]:
    """The kinds of damage that a text has."""
    ascii_only = text.isascii()
    if ascii_only and text.isprintable() and "<" not in text and "&" not in text:
        return []  # nearly every text, and much faster than to search for each kind
    return [kind for kind in KINDS if (kind.ascii_too or not ascii_only) and _has(kind, text)]


def repaired(text: str) -> tuple[str, list[str]]:
    """The text with all damage undone whose original is certain, and the names of what was."""
    done = []
    for kind in KINDS:
        if kind.repair is not None and kind.found.search(text):
            mended = kind.repair(text)
            if mended != text:
                text = mended
                done.append(kind.name)
    return text, done


def _has(kind: Damage, text: str) -> bool:
    match = kind.found.search(text)
    if match is None:
        return False
    return kind.name != "mojibake" or _repair_mojibake(text) != text
