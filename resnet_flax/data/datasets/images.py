"""Images that a user has: files, folders, arrays and pickles, as the network takes them."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from resnet_flax.data.datasets import pickles
from resnet_flax.errors import UserError
from resnet_flax.files import read_npy, read_npz
from resnet_flax.text import escape_line

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow knows more, some of which start programs
MAX_FILES_LISTED = 20  # files that could not be read
PICKLES = (".pkl", ".pickle", ".p")


class NamedImage(NamedTuple):
    """An image (height, width, 3) uint8: where it comes from, and what a submission calls it."""

    name: str
    id: str
    pixels: np.ndarray


@dataclass
class Images:
    """Images out of `files`, one after the other; what could not be read or had to be changed is noted.

    `size` is (height, width) of the images that come out.
    """

    files: list[Path]
    size: tuple[int, int]
    unreadable: dict[str, str] = field(default_factory=dict)  # file -> why
    changed: dict[str, str] = field(default_factory=dict)  # image -> what it was like

    def __iter__(self) -> Iterator[NamedImage]:
        """Everything that can be read."""
        for file in self.files:
            try:
                yield from self._read(file)
            except Exception as error:  # decoders of images raise nearly anything
                self.unreadable[str(file)] = escape_line((str(error) or type(error).__name__).split("\n")[0], 200)

    def with_bar(self) -> Iterator[NamedImage]:
        """The same behind a bar on a terminal; it has no end where files hold any number of images."""
        total = len(self.files) if all(file.suffix.lower() in IMAGES for file in self.files) else None
        hidden = not sys.stdout.isatty()
        return iter(
            tqdm(self, total=total, unit=" images", file=sys.stdout, disable=hidden, leave=False, dynamic_ncols=True)
        )

    def changes(self) -> str:
        """A line about what had to be changed, "" where nothing was."""
        if not self.changed:
            return ""
        (name, was), (height, width) = next(iter(self.changed.items())), self.size
        return f"{len(self.changed):,} images made {width} x {height}, RGB; the first, {escape_line(name)}, was {was}"

    def failures(self) -> list[str]:
        """A line for each file that could not be read, and one for those beyond MOST_LISTED."""
        listed = [f"  {escape_line(name)}: {why}" for name, why in self.unreadable.items()]
        rest = [f"  and {len(listed) - MAX_FILES_LISTED:,} more"] if len(listed) > MAX_FILES_LISTED else []
        return listed[:MAX_FILES_LISTED] + rest

    def _read(self, file: Path) -> Iterator[NamedImage]:
        if not file.is_file():
            raise ValueError("is no file")
        ids, ending = None, file.suffix.lower()
        if is_pickle(file):
            ids, arrays = read_pickle(file)
        elif ending == ".npy":
            arrays = as_images(read_npy(file))
        elif ending == ".npz":
            arrays = only_image_array(read_npz(file))
        else:
            yield NamedImage(str(file), file.stem, self._fit(str(file), *open_image(file, self.size)))
            return
        for index, array in enumerate(arrays):
            id = str(index) if ids is None else ids[index]
            name = f"{file}[{id}]"
            image = Image.fromarray(array)
            yield NamedImage(name, id, self._fit(name, image, image.size))

    def _fit(self, name: str, image: Image.Image, original: tuple[int, int]) -> np.ndarray:
        height, width = self.size
        if original != (width, height) or image.mode != "RGB":
            self.changed[name] = f"{original[0]} x {original[1]}, {image.mode}"
            if image.mode.startswith("I;16"):  # Pillow would cut off, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("RGB") if image.mode != "RGB" else image
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)


def find_images(words: list[str]) -> list[Path]:
    """The files that `words` name, and in order all images below those that are folders.

    Raises UserError where one does not exist, and where there is no image at all.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            found += images_below(path)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {word!r}")
    if not found:
        raise UserError(f"there are no images in {', '.join(words)}: looked for {' '.join(IMAGES)}")
    return found


def images_below(folder: Path) -> list[Path]:
    """All images in `folder` and the folders in it, in order; a name that begins with a dot hides one."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = (name for name in names if name.lower().endswith(IMAGES) and not name.startswith("."))
        found += [path for name in images if os.path.isfile(path := os.path.join(place, name))]
    return [Path(path) for path in sorted(found)]


def is_pickle(file: Path) -> bool:
    """By its ending or, with an ending that says nothing, by its first byte; CIFAR's own batches have no ending."""
    ending = file.suffix.lower()
    if ending in PICKLES or ending in (".npy", ".npz", *IMAGES):
        return ending in PICKLES
    with open(file, "rb") as content:
        return content.read(1) in (b"\x80", b"(")


def open_image(file: Path, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The image in a file, upright, and the width and height that it has there.

    A JPEG much larger than `size` (height, width) is halved while it is decoded, as long as it stays 4 times as large:
    that is 3 times as fast. One that unpacks to more pixels than Pillow thinks safe is refused unread.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # From memory no more is read than there is. In a file Pillow believes what a PNG says about its length.
        with Image.open(io.BytesIO(file.read_bytes()), formats=FORMATS) as image:
            original = image.size
            image.draft(None, (4 * size[1], 4 * size[0]))
            return ImageOps.exif_transpose(image), original


def only_image_array(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The images in the one array of them among several."""
    fitting = [array for array in arrays.values() if array.dtype == np.uint8 and array.ndim >= 3]
    if len(fitting) != 1:
        raise ValueError(f"must hold one uint8 array of images, and holds {len(fitting)} of {list(arrays)}")
    return as_images(fitting[0])


def read_pickle(file: Path) -> tuple[list[str] | None, np.ndarray]:
    """The ids and images of a pickle {b"data": ..., b"ids": ...}, or {b"data": ..., b"labels": ...} of CIFAR.

    None for the ids where it has none.
    """
    content = pickles.load_pickle(file)
    if not isinstance(content, dict):
        raise ValueError("must hold a dict with data, and perhaps ids")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if not isinstance(named.get("data"), np.ndarray):
        raise ValueError(f"has no array called data, only {', '.join(named)}")
    images, ids = as_images(named["data"]), named.get("ids")
    if ids is None:
        return None, images
    if not isinstance(ids, list | tuple | np.ndarray) or len(ids) != len(images):
        raise ValueError(f"has {len(images)} images, and its ids are not as many")
    return [as_id(one) for one in ids], images


def as_id(value: object) -> str:
    """A number or text as text."""
    if not isinstance(value, str | bytes | int | float | np.generic):
        raise ValueError("has ids that are neither numbers nor text")
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def as_images(array: np.ndarray) -> np.ndarray:
    """(n, H, W, 3), or (n, H, W) for grey, of an array of images; a row of CIFAR's (n, 3072) is three planes."""
    if array.dtype != np.uint8:
        raise ValueError(f"holds {array.dtype}: images are uint8, from 0 to 255")
    if not array.size:
        raise ValueError(f"has shape {array.shape}: there is no image in it")
    if array.ndim == 2 and array.shape[1] == 3072:
        return array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return array[None]
    if array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (3, 4)):
        return array
    raise ValueError(f"has shape {array.shape}: images are (n, height, width, 3)")
