"""Services that tests need and a machine may lack."""

import os

import pytest


def missing(what: str) -> None:
    """On a person's machine a reason to skip, in CI a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
