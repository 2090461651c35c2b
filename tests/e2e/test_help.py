"""Help and shell completion, which a terminal's user has instead of the documentation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.service import run


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["migrate"],
        ["train"],
        ["settings"],
        ["keys"],
        ["keys", "create"],
        ["partitions"],
        ["partitions", "drop"],
    ],
)
def test_help_of_each_command_names_its_options_without_a_type_for_a_flag(
    folder: Path, command: list[str], option: str
) -> None:
    result = run(folder, *command, option)
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: {' '.join(['iris-api', *command])} ")
    assert "<bool>" not in result.stdout
    assert "README" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "completions"),
    [("se", {"serve", "settings"}), ("keys ", {"create", "list", "revoke"}),
     ("keys create --scope ", {"predict", "read", "admin"})],
)  # fmt: skip
def test_completion_in_bash_offers_commands_and_scopes(words: str, completions: set[str]) -> None:
    line = f"iris-api {words}"
    result = subprocess.run(
        [Path(sys.executable).with_name("iris-api")],
        env=os.environ
        | {
            "_IRIS_API_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(result.stdout.split()) == completions
