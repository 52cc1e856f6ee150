"""Put tests/ on the path, so that tests share helpers by plain import."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
