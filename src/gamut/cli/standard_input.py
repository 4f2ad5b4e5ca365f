"""Standard input as one text, for the arguments that a dash stands for."""

from __future__ import annotations

import sys

from ..errors import UsageError


def read_text() -> str:
    """All of it.

    Raises:
        UsageError: it is closed, or not UTF-8.
    """
    if sys.stdin is None:  # closed by the shell: <&-
        raise UsageError("standard input is closed; give the text in place of -, or pipe it in")
    octets = sys.stdin.buffer.read()
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input must be UTF-8, got the byte 0x{octets[error.start]:02X} at byte offset {error.start}; "
            "convert it first, for instance with: iconv -f latin1 -t utf-8"
        ) from error
