"""What no compiler checks in csrc/."""

import re
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"

# Sanitizers see what the compiler makes of a pointer, not what these do with one.
UNSEEN = re.compile(r"_mm\d*_(\w*mask\w*(load|store|gather|scatter)|\w*(gather|scatter|stream))")


def test_unseen_accesses_stand_in_vectors_h():
    """There a sanitized build takes another way."""
    found = {
        path.relative_to(CSRC).as_posix()
        for path in CSRC.rglob("*")
        if path.suffix in (".h", ".cpp") and UNSEEN.search(path.read_text())
    }
    assert found == {"common/vectors.h"}
