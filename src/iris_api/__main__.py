"""``python -m iris_api`` is ``iris-api``."""

from iris_api.cli import main

if __name__ == "__main__":
    main()
