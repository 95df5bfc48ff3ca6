"""Take the README's picture of a report: `python docs/screenshot.py RUN`.

Renders the report of a finished run anew and photographs its first screen, in the light theme, with
a headless Chromium. The picture is written to `docs/images/report.png`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from hwnas.pipeline.report import report

PICTURE = Path(__file__).parent / "images" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MAX_BYTES = 200_000


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """Write the first screen of an HTML page as a PNG file.

    Args:
        page: the HTML file.
        picture: the PNG file to write.
        width: of the window, in pixels.
        height: of the window, in pixels.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser, expected one of {', '.join(BROWSERS)}: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        # 1 is the light theme, whatever the machine's own is.
        options += ["--blink-settings=preferredColorScheme=1", f"--screenshot={picture}"]
        line = [browser, *options, page.absolute().as_uri()]
        subprocess.run(line, check=True, capture_output=True, timeout=120)
    # A page has few colours: a palette makes the file three times smaller.
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)


def main() -> None:
    """Read the arguments, render the report and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the PNG file")
    parser.add_argument("--width", type=int, default=1120, help="of the window, in pixels")
    parser.add_argument("--height", type=int, default=900, help="of the window, in pixels")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    photograph(report(arguments.run), arguments.out, arguments.width, arguments.height)
    size = arguments.out.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{arguments.out}: {size} bytes, expected at most {MAX_BYTES}: lower --height")
    print(f"{arguments.out}: {size} bytes")


if __name__ == "__main__":
    main()
