"""Importing a room loads what it needs and nothing heavy; one fresh process tells."""

import subprocess
import sys

SCRIPT = """
import sys, time
start = time.perf_counter()
import src.evaluation
from src.evaluation import CalibrationMetrics
import src.cli, src.config, src.pipeline, src.models, src.probes, src.data, src.tinker, src.report
heavy = {"torch", "transformers", "tinker", "datasets", "matplotlib", "sklearn", "peft"} & set(sys.modules)
assert not heavy, heavy
for package in (src.data, src.evaluation, src.models, src.pipeline, src.probes, src.report, src.tinker):
    for name in package.__all__:
        first, second = getattr(package, name), getattr(package, name)
        assert first is second and not hasattr(first, "__path__"), (package, name, first)
try:
    src.models.Nothing
except AttributeError as error:
    assert "Nothing" in str(error)
"""


def test_packages_are_light_and_their_names_resolve():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
