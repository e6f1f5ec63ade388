"""Draw the pictures of the home page: a figure of each example that draws one (`python docs/gallery.py [NN ...]`)."""

import os
import runpy
import sys
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "figures" / "gallery"
# The figure of the example that is shown, where it is not the first.
SHOWN = {"02": -1}
WIDTH = 640  # pixels


def cropped(picture: Image.Image, rim: int = 8) -> Image.Image:
    """Return a picture without its empty margin but for a rim, pixels."""
    empty = Image.new("RGB", picture.size, "white")
    left, top, right, bottom = ImageChops.difference(picture, empty).getbbox() or (0, 0, *picture.size)
    box = max(left - rim, 0), max(top - rim, 0), min(right + rim, picture.width), min(bottom + rim, picture.height)
    return picture.crop(box)


def draw(example: Path) -> bool:
    """Run an example, and save one of its figures; False if it draws none."""
    plt.close("all")
    runpy.run_path(str(example), run_name="__main__")
    if not plt.get_fignums():
        return False
    figure = plt.figure(plt.get_fignums()[SHOWN.get(example.name[:2], 0)])
    figure.set_dpi(WIDTH / figure.get_size_inches()[0])
    figure.canvas.draw()
    # A palette takes a third of the bytes.
    picture = cropped(Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB")).quantize(128)
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture.save(FOLDER / f"{example.stem}.png", optimize=True)
    return True


if __name__ == "__main__":
    for script in sorted((ROOT / "examples").glob("*.py")):
        if len(sys.argv) == 1 or script.name[:2] in sys.argv[1:]:
            print(script.name, "drawn" if draw(script) else "draws no figure", flush=True)
