"""A command's standard output as a terminal shows it."""

import os
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

from tests.support.service import environment


def at_terminal(
    folder: Path,
    *arguments: str,
    settings: Mapping[str, object],
    columns: int = 80,
    encoding: str = "utf-8",
) -> str:
    """Run ``iris-api`` to its end, with a terminal of this width as its standard output."""
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, columns))
    with os.fdopen(main, "rb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "iris_api", *arguments],
            env=environment(**settings) | {"PYTHONIOENCODING": encoding},
            cwd=folder,
            stdout=terminal,
        )
        os.close(terminal)
        shown = b"".join(_pieces(output.fileno()))
    assert process.wait(90) == 0
    return shown.decode(encoding).replace("\r\n", "\n")


def _pieces(terminal: int) -> list[bytes]:
    """What is written until the other side is closed, which Linux reports as an error."""
    pieces = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:
        pass
    return pieces
