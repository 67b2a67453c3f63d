"""The programs that differed once: kept/*.txt, each a literal of Python."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "kept"


def read(path):
    return ast.literal_eval(path.read_text())


def programs():
    """Return the programs by name."""
    return {path.stem: read(path) for path in sorted(FOLDER.glob("*.txt"))}
