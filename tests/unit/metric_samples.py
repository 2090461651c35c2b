"""What a page of metrics says."""

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus"
)


def findings_of_promtool(text: str) -> str:
    """What Prometheus' own tool has to say of the page; empty if nothing."""
    command = ["promtool", "check", "metrics"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr + ("" if result.returncode == 0 else "failed")


def sample(text: str, name: str, **labels: str) -> float | None:
    """The value of the one sample with this name and these labels."""
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(values) <= 1
    return values[0] if values else None
