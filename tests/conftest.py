"""Being here, it lets tests import the helpers beside it, such as fabricated.py."""

import os

from hypothesis import settings

# Tests run side by side, a file on each core: a second thread would only wait for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("loaded", deadline=None)  # a loaded machine is no error
settings.load_profile("loaded")
