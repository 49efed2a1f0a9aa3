"""A headless browser, and what it takes to look at a page as a person does."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import missing

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1600",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Chromium, driven by selenium; its console and its network requests are recorded."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        missing("needs chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(str(driver)))
    page.set_page_load_timeout(120)
    yield page
    page.quit()


@pytest.fixture
def pictures() -> Path | None:
    """Where to leave screenshots for a person to look at; nowhere unless asked."""
    folder = os.environ.get("DINOV2LAB_SCREENSHOTS")
    return Path(folder) if folder else None
