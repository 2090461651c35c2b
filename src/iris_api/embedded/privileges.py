"""PostgreSQL refuses to run as root; so root's programs here run as ``nobody``."""

import os
import pwd
import shutil
from pathlib import Path

from iris_api.errors import ConfigurationError


def as_ordinary_user() -> list[str]:
    """The words before a command that has to run as PostgreSQL wants it: not as root.

    Root's programs run as ``nobody``, with the one capability to pass through root's own folders,
    so that none of them must be opened to all. Where setpriv(1) is there, the server also ends when
    this process is killed.
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
        f"--bounding-set={capabilities}", "--pdeathsig", "INT", "--",
    ]  # fmt: skip


def chown_to_server_user(folder: Path) -> None:
    """Give a folder to the user that PostgreSQL will run as."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
