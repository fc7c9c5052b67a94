"""The repository's path: the only place that counts folders."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
