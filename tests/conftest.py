"""Puts tests/ on the path so that tests share small modules such as `realdata`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
