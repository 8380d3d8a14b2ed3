from pathlib import Path

REPO = Path(__file__).parents[2]
DATA = REPO.parent / "shared" / "data"  # real captures; tests that need them skip where they are not
CASES = REPO.parent / "shared" / "cases"
SAMPLES = REPO / "tests" / "samples"
