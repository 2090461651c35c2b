"""Runs PostgreSQL as ``nobody`` if this process is root: PostgreSQL does not run as root."""

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from iris_api.errors import ConfigurationError

_REFUSED_MODES = 0o027
"""PostgreSQL does not start on a folder that others may enter, or its group may write to."""


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
    nobody = _nobody()
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
    """Give a folder, with all in it, to the user that PostgreSQL will run as.

    Follows no symlink. Raises `ConfigurationError` if this process may not.
    """
    if os.geteuid() != 0:
        return
    nobody = _nobody()
    ids = nobody.pw_uid, nobody.pw_gid
    try:
        for _, folders, files, parent in os.fwalk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)
        os.chown(folder, *ids, follow_symlinks=False)  # last, so that `take_over` can repeat it
    except OSError as error:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and {folder} cannot be given to nobody: "
            f"{error.strerror}. Start the service as another user, or set IRIS_DATABASE_URL."
        ) from None


def take_over(folder: Path) -> None:
    """Mend the owner and the mode of a copied data folder: PostgreSQL would not start on it.

    Leaves a symlink as it is. Raises `ConfigurationError` if the folder is another user's.
    """
    if folder.is_symlink():
        return
    user, owner = os.geteuid(), folder.stat().st_uid
    if owner not in {user, _server_user_id()}:
        raise ConfigurationError(
            f"{folder} belongs to the user with the id {owner}. Run `chown -R {user} {folder}` as "
            "root, or set IRIS_DATA_DIR to another folder."
        )
    descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_mode & _REFUSED_MODES:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    if owner != _server_user_id():
        chown_to_server_user(folder)


def _server_user_id() -> int:
    return os.geteuid() or _nobody().pw_uid


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and there is no user nobody to run it as. Start the "
            "service as another user, or set IRIS_DATABASE_URL."
        ) from None
