"""The versions of the libraries that an ML model needs: recorded with it, compared at loading."""

import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version

_ALWAYS = ("scikit-learn", "numpy", "scipy", "joblib")
_THEIR_MODULES = {"sklearn", "numpy", "scipy", "joblib"}
_ARITHMETIC = frozenset({"numpy", "scipy"})
"""Another patch release of these may load a model, if its probe rows show the same probabilities.

All other versions have to be equal: scikit-learn supports a pickle only in the version that wrote
it, and so do the libraries that follow it.
"""


def versions_of(modules: Iterable[str]) -> dict[str, str]:
    """The versions here, by distribution, of `_ALWAYS` and of these top-level modules.

    A module that no installed distribution owns, such as a script's neighbour, has no version.
    """
    others = set(modules) - sys.stdlib_module_names - _THEIR_MODULES
    distributions = packages_distributions() if others else {}  # reads every distribution's files
    owners = {name for module in others for name in distributions.get(module, ())}
    return {name: version(name) for name in [*_ALWAYS, *sorted(owners)]}


def differences(recorded: Mapping[str, str], *, has_probe_rows: bool) -> list[str]:
    """What was recorded and is not here, in words such as ``numpy 2.4.6 (here: 2.5.5)``."""
    wrong = []
    for name in dict.fromkeys([*_ALWAYS, *recorded]):
        before, here = recorded.get(name, "unknown"), _installed(name)
        is_minor_enough = has_probe_rows and name in _ARITHMETIC
        if before != here and not (is_minor_enough and _minor(before) == _minor(here)):
            wrong.append(f"{name} {before} (here: {here})")
    return wrong


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _minor(release: str) -> list[str]:
    return release.split(".")[:2]
