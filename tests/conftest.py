"""Being here, it lets tests import the helpers beside it, such as fabricated.py."""

import os

# Tests run side by side, a file on each core: a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
