"""Runs PostgreSQL as ``nobody`` if this process is root: PostgreSQL does not run as root."""

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from iris_api.errors import ConfigurationError


def as_ordinary_user() -> list[str]:
    """The prefix of a command that must not run as root.

    For root, the command runs as ``nobody``, with only the capability to pass through root's own
    folders, so their modes can stay. With setpriv(1), the server also ends when this process is
    killed. Raises `ConfigurationError` for root without setpriv.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0:
        return [setpriv, "--pdeathsig", "INT", "--"] if setpriv else []
    if setpriv is None:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and setpriv (of util-linux) is not there to run it "
            "as nobody. Start the service as another user, or set IRIS_DATABASE_URL."
        )
    nobody = pwd.getpwnam("nobody")
    capabilities = "-all,+dac_override"
    return [
        setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups",
        f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}",
        f"--bounding-set={capabilities}", *_securebits(setpriv), "--pdeathsig", "INT", "--",
    ]  # fmt: skip


@functools.cache
def _securebits(setpriv: str) -> list[str]:
    """The option that lets access(2) respect the capability; none if root may not set it.

    PostgreSQL asks access(2) whether it may run its own programs. Without CAP_SETPCAP, as in some
    containers, it therefore starts only from folders that ``nobody`` may enter.
    """
    option = "--securebits=+no_setuid_fixup"
    tried = subprocess.run([setpriv, option, "true"], capture_output=True, check=False)  # noqa: S603
    return [option] if tried.returncode == 0 else []


def chown_to_server_user(folder: Path) -> None:
    """Give a folder to the user that PostgreSQL will run as."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
