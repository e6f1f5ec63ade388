"""Text that came from file names, headers and messages, made safe to show."""

import re

# Control characters, which terminals obey, except tabulators and line ends; marks that turn the direction of writing;
# and bytes of a file name that are no UTF-8, which Python keeps as lone surrogates and no encoder takes.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text with what terminals obey, or what cannot be encoded, written as `\x1b` and the like.

    Everything that reaches a terminal, a page or a log and holds a file's name, or a word from a file, passes here.

    Parameters
    ----------
    text
        Anything with a text; a lone surrogate stands for a byte of a file name that is no UTF-8, and becomes `\xfc`
        and the like.
    """
    return _UNSAFE.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    # PEP 383: byte 0xfc of a name is the surrogate U+DCFC.
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
