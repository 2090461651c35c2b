"""The program: ``iris-api``, or ``python -m iris_api``.

It installs signal handlers before it imports the command line, which then imports what a command
needs: without a handler, the first process of a container ignores SIGTERM, and is killed.
"""

from iris_api.signals import install_handlers


def main() -> None:
    """Run the command line."""
    install_handlers()
    from iris_api import cli  # noqa: PLC0415, see above

    cli.main()


if __name__ == "__main__":
    main()
