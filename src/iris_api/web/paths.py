"""The path of a request."""

from starlette.types import Scope

_PATH = "iris_api.path"


def path_of(scope: Scope) -> str:
    """The request's path without the root path, as Starlette's router sees it; computed once.

    Works whether or not a proxy has stripped the root path. Empty if the request is for the root
    path without a slash at the end.
    """
    path: str | None = scope.get(_PATH)
    if path is None:
        path = scope[_PATH] = _without_root(scope["path"], scope.get("root_path", ""))
    return path


def _without_root(path: str, root_path: str) -> str:
    rest = path.removeprefix(root_path)
    is_beneath = len(rest) < len(path) and (not rest or rest.startswith("/"))
    return rest if is_beneath else path
