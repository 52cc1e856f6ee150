"""What takes long the first time is done before a test, of which some have a time limit."""

import pyarrow as pa

pa.array([0])  # imports pandas, where it is installed
