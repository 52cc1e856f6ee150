"""Put tests/ on the path, so that tests share helpers by plain import."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from clipfeat.base.text import log_to_terminal

# Tests that call functions in their own process read stderr as a user of the command line does.
log_to_terminal()

# A shell that starts the tests in the background has SIGINT ignored. Commands that tests start would
# inherit that, and Ctrl-C would not end them.
signal.signal(signal.SIGINT, signal.default_int_handler)
