#!/usr/bin/env python3
"""Runs `pip install` with these arguments, and says in one line how far it is.

The line moves on a terminal; in a log it is written every 10 s. If pip fails, its last lines
follow.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable

_OPTIONS = ["--disable-pip-version-check", "--progress-bar=off", "--no-input"]
_LAST_LINES = 20


class Progress:
    """What pip's output says."""

    def __init__(self) -> None:
        self.now = "asking for packages"
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._found = 0

    def read(self, lines: Iterable[str]) -> None:
        """Follow pip's output to its end."""
        for line in lines:
            self.last_lines.append(line)
            if found := re.match(r"\s*Collecting ([\w.-]+)", line):
                self._found += 1
                self.now = f"package {self._found}, {found[1]}"
            elif line.startswith("Installing collected packages:"):
                self.now = f"writing {line.count(',') + 1} packages"
            elif line.startswith("Successfully installed"):
                self.now = f"{len(line.split()) - 2} packages"


def install(arguments: list[str]) -> int:
    """Run pip, and return its exit code."""
    begun = time.monotonic()
    is_terminal = sys.stdout.isatty()
    progress = Progress()

    def show(text: str, end: str) -> None:
        text = f"{text} ({time.monotonic() - begun:.0f} s)"
        if is_terminal:
            text = "\r\x1b[K" + text[: os.get_terminal_size().columns - 1]
        sys.stdout.write(text + end)
        sys.stdout.flush()

    with subprocess.Popen(  # noqa: S603, arguments are the Makefile's
        [sys.executable, "-m", "pip", "install", *_OPTIONS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        assert pip.stdout is not None  # noqa: S101, for mypy
        reader = threading.Thread(target=progress.read, args=[pip.stdout])
        reader.start()
        while reader.is_alive():
            show(f"Installing: {progress.now}", "" if is_terminal else "\n")
            reader.join(0.5 if is_terminal else 10)
    if pip.returncode:
        show("pip failed", ":\n")
        sys.stderr.write("".join(progress.last_lines))
    else:
        show(f"Installed {progress.now}", "\n")
    return pip.returncode


if __name__ == "__main__":
    try:
        sys.exit(install(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. `make` again continues.")
