"""How the command that was called wants to speak, and which characters may reach a terminal."""

import re
from dataclasses import dataclass

_NOT_FOR_A_TERMINAL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass
class Wishes:
    """What flags, environment and file say; the program asks for it when the command has failed.

    Attributes:
        command: full name of the command that was called, `train-spatial` or `job slurm`; empty until it
            reads its options.
        as_json: whether it ends with a JSON object.
        debug: whether an error shows its traceback.
    """

    command: str = ""
    as_json: bool = False
    debug: bool = False

    def note(self, command: str, *, as_json: bool = False, debug: bool = False) -> None:
        """Note a wish of the command that was called; stages inside it have none of their own."""
        if self.command in ("", command):
            self.command = command
            self.as_json |= as_json
            self.debug |= debug


wishes = Wishes()
"""Those of this process."""


def plain(text: str) -> str:
    r"""Return a text with control characters (line ends apart) and bytes that are not UTF-8 as `\xNN`.

    Names of files are data: on a terminal an escape sequence in one could hide or fake lines.
    """
    return _NOT_FOR_A_TERMINAL.sub(lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
