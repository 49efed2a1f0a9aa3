"""What the tests of reports share lies in reported.py, under a name of its own."""

from reported import fabricate

__all__ = ["fabricate"]
