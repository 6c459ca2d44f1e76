"""Screenshots of a report at both widths, light and dark: what the documents show and people look at.

python docs/screenshots.py reports/mnist-cnn/report.html FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def main(page: Path, folder: Path) -> None:
    """Write report-<width>-<theme>.png, whole pages, and report.png, the top of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for width in (1280, 390):
            for theme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=theme, offline=True
                )
                tab = context.new_page()
                tab.goto(page.resolve().as_uri())
                path = folder / f"report-{width}-{theme}.png"
                tab.screenshot(path=path, full_page=True)
                Image.open(path).quantize(128).save(path, optimize=True)
                context.close()
        browser.close()
    # The README's picture: the top of the page.
    whole = Image.open(folder / "report-1280-light.png")
    whole.crop((0, 0, whole.width, 1900)).save(folder / "report.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
