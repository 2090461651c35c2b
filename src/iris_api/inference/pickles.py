"""An estimator as a pickle: what it refers to, its bytes, and a file that somebody else wrote."""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import joblib
import sklearn.base
from sklearn.exceptions import InconsistentVersionWarning

_ELSEWHERE = (
    "scikit-learn supports a pickle only in the version that wrote it: install that version and "
    "save the model there, or fit it again here"
)


class Contents(pickle.Pickler):
    """Visits every object that a pickle of the estimator would hold.

    Raises `ValueError`, which says what to do, for an estimator that cannot be pickled, or only
    by the script that defines its class.
    """

    def __init__(self, estimator: Any) -> None:
        # Out of band, so that the rows which some estimators keep are not copied.
        super().__init__(io.BytesIO(), protocol=5, buffer_callback=lambda _buffer: None)
        self.modules: set[str] = set()
        """The top-level modules of all classes and functions."""
        self.classes: set[str] = set()
        self.with_column_names: dict[int, Any] = {}
        """By identity, the objects that remember the columns of the frame they were fitted on."""
        try:
            self.dump(estimator)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The estimator cannot be pickled: {error}. Define its classes and functions in a "
                "module that the service can import, not in a script or notebook."
            ) from error

    def persistent_id(self, thing: Any) -> None:
        """Note an object; the pickler calls this for each."""
        for one in (thing, type(thing)):
            module = getattr(one, "__module__", None)
            if module == "__main__":
                name = getattr(one, "__qualname__", type(one).__qualname__)
                raise ValueError(
                    f"The estimator uses {name}, which a script or notebook defines (__main__): "
                    "move it to a module that the service can import, and fit the model again."
                )
            if isinstance(module, str):
                self.modules.add(module.partition(".")[0])
        self.classes.add(type(thing).__name__)
        is_instance = not isinstance(thing, type)  # a class may have a property of that name
        if is_instance and "feature_names_in_" in getattr(thing, "__dict__", ()):
            self.with_column_names[id(thing)] = thing


def without_column_names(estimator: Any) -> Any:
    """A copy that has forgotten the names of its columns, as if fitted on an array.

    scikit-learn warns at each call if an estimator with column names gets an array.
    """
    copy = joblib.load(io.BytesIO(pickled(estimator)))
    for one in Contents(copy).with_column_names.values():
        del one.feature_names_in_
    return copy


def pickled(estimator: Any) -> bytes:
    """The bytes of joblib's file."""
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    return buffer.getvalue()


def read_pickle(path: Path) -> Any:
    """Unpickle a file of joblib or pickle: only one that you trust, since a pickle runs code.

    Raises `ValueError` for a file that another version of scikit-learn wrote.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            return joblib.load(path)
        except InconsistentVersionWarning as error:
            raise ValueError(
                f"{path} was written with scikit-learn {error.original_sklearn_version} (here: "
                f"{error.current_sklearn_version}). {_ELSEWHERE}."
            ) from error
        except Exception as error:
            raise ValueError(
                f"{path} cannot be unpickled: {error}. Give a file of joblib or pickle, and "
                "install what it was written with."
            ) from error


def check_origin(contents: Contents) -> None:
    """Refuse an estimator that this interpreter has unpickled from another scikit-learn's file.

    The estimator itself does not know. Python remembers the warning, unless it was filtered out.
    """
    for text, category, *_ in getattr(sklearn.base, "__warningregistry__", {}):
        if category is InconsistentVersionWarning:
            found = re.search(r"estimator (\S+) from version (\S+)", text)
            if found and found[1] in contents.classes:
                raise ValueError(
                    f"This interpreter has unpickled a {found[1]} of scikit-learn {found[2]}. "
                    f"{_ELSEWHERE}; then save it from a new interpreter."
                )
