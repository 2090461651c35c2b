"""The files in the ML model's folder, by name.

Apart from `iris_api.inference`, which loads scikit-learn: the parent of workers needs none.
"""

import re
from pathlib import Path

MANIFEST_NAME = "manifest.json"
_PICKLES = {".joblib", ".pickle", ".pkl"}
_SAVED = re.compile(r".+-[0-9a-f]{12}\.joblib")
"""The name of a file that `iris_api.inference.saving.save_artifact` has written."""


def unlisted_models(folder: Path) -> list[Path]:
    """The pickles in the folder that `save_artifact` did not write: the service ignores them."""
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in _PICKLES and not _SAVED.fullmatch(path.name)
    )
