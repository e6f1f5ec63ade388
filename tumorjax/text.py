"""Sanitising text from file names, headers and messages before it is shown."""

import re

# Control characters except tabs and line ends, because terminals execute them; marks that change the direction of
# writing; and lone surrogates, with which Python represents bytes of a file name that are not UTF-8, and which cannot
# be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text with control characters, and characters that cannot be encoded, escaped as in `\x1b`.

    All text that contains a file's name or words from a file goes through this function before it reaches a terminal,
    a page or a log.

    Parameters
    ----------
    text
        Any object; it is converted with `str`. A lone surrogate, which represents a byte of a file name that is not
        UTF-8, becomes an escape such as `\xfc`.
    """
    return _UNSAFE.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    # PEP 383: byte 0xfc of a name is the surrogate U+DCFC.
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
