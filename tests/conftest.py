"""Being here, it lets tests import the helpers beside it, such as fabricated.py."""
