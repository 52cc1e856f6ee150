"""Put tests/ on the path, so that tests share helpers by plain import."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from clipfeat.base.text import log_to_terminal

# Tests that call functions in their own process read stderr as a user of the command line does.
log_to_terminal()
