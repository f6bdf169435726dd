"""A user's own images: find the files, and read images out of files, arrays, archives and pickles."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from resnet_flax.data.datasets.pickles import read_pickle
from resnet_flax.errors import UserError, nearest_file, reason
from resnet_flax.files import check_size, read_npy, read_npz, user_path
from resnet_flax.text import escape_line, first_few

IMAGES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow knows more, some of which start programs
BITS_PER_SAMPLE = 258  # a tag of TIFF
CIFAR_BYTES = 3 * 32 * 32  # of an image in CIFAR's own files
PICKLES = (".pkl", ".pickle", ".p")
READ = (*IMAGES, *PICKLES, ".npy", ".npz")
MAX_IMAGE_BYTES = 2**28  # of a file: the size of the largest image that Pillow accepts, uncompressed
MAX_FILES_LISTED = 20  # files that could not be read


class NamedImage(NamedTuple):
    """An image (height, width, 3) uint8, where it comes from, and its ID in a submission."""

    name: str
    id: str
    pixels: np.ndarray


@dataclass
class Images:
    """The images in `files`, one after the other, as RGB of `size`, (height, width).

    Transparent images are put on white, as viewers show them. Files that cannot be read and images that had to be
    changed are noted.
    """

    files: list[Path]
    size: tuple[int, int]
    unreadable: dict[str, str] = field(default_factory=dict)  # file -> why
    changed: dict[str, str] = field(default_factory=dict)  # image -> its size and mode
    transparent: int = 0  # images

    def __iter__(self) -> Iterator[NamedImage]:
        for file in self.files:
            try:
                yield from self._read(file)
            except Exception as error:  # decoders of images raise nearly anything
                self.unreadable[str(file)] = escape_line(reason(error), 200)

    def with_bar(self) -> Iterator[NamedImage]:
        """Iterate, with a progress bar on a terminal; it has no total if a file may hold several images."""
        total = len(self.files) if all(file.suffix.lower() in IMAGES for file in self.files) else None
        hidden = not sys.stdout.isatty()
        return iter(
            tqdm(self, total=total, unit=" images", file=sys.stdout, disable=hidden, leave=False, dynamic_ncols=True)
        )

    def changes(self) -> str:
        """Return a line about the images that had to be changed, "" if there are none."""
        if not self.changed:
            return ""
        (name, was), (height, width) = next(iter(self.changed.items())), self.size
        count = count_of_images(len(self.changed))
        line = f"{count} converted to {width} x {height} RGB; the first, {escape_line(name)}, was {was}"
        return line + (f"; {self.transparent:,} with transparency put on white" if self.transparent else "")

    def failures(self) -> str:
        """Return how many files could not be read, and a line for each of the first."""
        lines = [f"{escape_line(name)}: {why}" for name, why in self.unreadable.items()]
        title = f"{len(lines):,} files cannot be read and are left out:"
        if len(lines) == 1:
            title = "1 file cannot be read and is left out:"
        return "\n  ".join([title, *first_few(lines, MAX_FILES_LISTED)])

    def _read(self, file: Path) -> Iterator[NamedImage]:
        if not file.is_file():
            raise ValueError("is not a file")
        ids, extension = None, file.suffix.lower()
        if is_pickle(file):
            ids, arrays = images_in_pickle(file)
        elif extension == ".npy":
            arrays = as_images(read_npy(file))
        elif extension == ".npz":
            arrays = images_in_npz(file)
        else:
            yield NamedImage(str(file), file.stem, self.fit(str(file), *open_image(file, self.size)))
            return
        for index, array in enumerate(arrays):
            id = str(index) if ids is None else ids[index]
            name = f"{file}[{id}]"
            image = Image.fromarray(array)
            yield NamedImage(name, id, self.fit(name, image, image.size))

    def fit(self, name: str, image: Image.Image, original: tuple[int, int]) -> np.ndarray:
        """Return the pixels of an image as RGB of `size`; `original` is the (width, height) that it has in its file."""
        height, width = self.size
        if original != (width, height) or image.mode != "RGB" or image.has_transparency_data:
            self.changed[name] = f"{original[0]} x {original[1]}, {image.mode}"
            image = eight_bits(image).resize((width, height), Image.Resampling.BILINEAR)
            if image.mode == "RGBA":
                self.transparent += np.asarray(image)[..., 3].min() < 255
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return np.asarray(image)


def count_of_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def list_image_files(words: list[str]) -> list[Path]:
    """Return the files that `words` name and, in order, all images below those that are folders.

    Raises UserError if one does not exist, or if there is no image at all.
    """
    found: list[Path] = []
    for word in words:
        if not word:  # an unset shell variable, which pathlib takes for the current folder
            raise UserError("an image must be a path, not ''")
        path = user_path(word)
        if path.is_dir():
            found += image_files_below(path)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {word!r}{nearest_file(path, READ)}")
    if not found:
        raise UserError(f"there are no images in {', '.join(words)}: looked for {' '.join(IMAGES)}")
    return found


def image_files_below(folder: Path) -> list[Path]:
    """Return all images in `folder` and the folders in it, in order, see files_below."""
    return [Path(path) for path in sorted(filter(is_image_name, files_below(folder)))]


def files_below(folder: Path) -> Iterator[str]:
    """Yield all files in `folder` and the folders in it, except those whose names begin with a dot."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(place, name) for name in names if not name.startswith("."))
        yield from filter(os.path.isfile, paths)


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def is_pickle(file: Path) -> bool:
    """Decide by the extension or, if that says nothing, by the first byte: CIFAR's own batches have no extension."""
    extension = file.suffix.lower()
    if extension in READ:
        return extension in PICKLES
    with open(file, "rb") as content:
        return content.read(1) in (b"\x80", b"(")


def open_image(file: Path, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """Return the image in a file, upright as its EXIF data say, and its width and height in the file.

    For an animation, this is the first frame. A JPEG much larger than `size` (height, width) is halved while it is
    decoded, as long as it stays 4 times as large, which is 3 times as fast. An image with more pixels than Pillow
    considers safe is refused before it is decoded.
    """
    check_size(file, MAX_IMAGE_BYTES)
    content = io.BytesIO(file.read_bytes())  # from a file, Pillow would trust the lengths that a PNG states
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(content, formats=IMAGE_FORMATS) as image:
                original = image.size
                image.draft(None, (4 * size[1], 4 * size[0]))
                with contextlib.suppress(SyntaxError, ValueError, KeyError, OSError):  # its EXIF data may be damaged
                    ImageOps.exif_transpose(image, in_place=True)  # copying a large image takes longer than decoding it
                image.load()
                return image, original
        except UnidentifiedImageError:
            raise ValueError(f"is not an image, or not one of {', '.join(IMAGE_FORMATS)}") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise ValueError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None


def upright(image: Image.Image) -> Image.Image:
    """Return a copy of an image, turned as its EXIF data say, or the image itself if they say nothing."""
    image.load()  # which already turns a TIFF
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
        return image
    turned = eight_bits(image).copy()  # which needs the format of `image`: the copy that Pillow turns has none
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(turned)


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB or, if it has transparency, RGBA; of 16 bits, the upper 8 are kept."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not sixteen:
        raise ValueError("has pixels of 32 bits: convert it to 8 or 16")
    if sixteen:  # Pillow would clip, not scale
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # a TIFF's, which may be 12
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def images_in_npz(file: Path) -> np.ndarray:
    """Return the images of an .npz, which are the one uint8 array in it that has their shape, see as_images."""
    arrays = read_npz(file)
    in_rows = (CIFAR_BYTES,)
    fitting = [one for one in arrays.values() if one.dtype == np.uint8 and (one.ndim > 2 or one.shape[1:] == in_rows)]
    if len(fitting) != 1:
        raise ValueError(f"must hold one uint8 array of images, but holds {len(fitting)} of {list(arrays)}")
    return as_images(fitting[0])


def images_in_pickle(file: Path) -> tuple[list[str] | None, np.ndarray]:
    """Return the ids (None if there are none) and the images of a pickle.

    It holds {b"data": ..., b"ids": ...}, or {b"data": ..., b"labels": ...} like CIFAR's own batches.
    """
    content = read_pickle(file)
    if not isinstance(content, dict):
        raise ValueError("must hold a dict with data, and perhaps ids")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if not isinstance(named.get("data"), np.ndarray):
        raise ValueError(f"has no array called data, only {', '.join(named)}")
    images, ids = as_images(named["data"]), named.get("ids")
    if ids is None:
        return None, images
    if not isinstance(ids, list | tuple | np.ndarray) or len(ids) != len(images):
        raise ValueError(f"must have an id for each of its {len(images)} images")
    return [as_id(one) for one in ids], images


def as_id(value: object) -> str:
    """Return a number or text as text."""
    value = value[()] if isinstance(value, np.ndarray) and not value.ndim else value
    if not isinstance(value, str | bytes | int | float | np.generic):
        raise ValueError("has ids that are neither numbers nor text")
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def as_images(array: np.ndarray) -> np.ndarray:
    """Return an array of images as (n, H, W, 3), (n, H, W, 4) with transparency, or (n, H, W) for grey.

    A row of (n, CIFAR_BYTES) is three planes of 32 x 32. Three dimensions of which the last has 3 or 4 are one image.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"holds {array.dtype}: images are uint8, from 0 to 255")
    if not array.size:
        raise ValueError(f"has shape {array.shape}: there is no image in it")
    if array.ndim == 2 and array.shape[1] == CIFAR_BYTES:
        return array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return array[None]
    if array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (3, 4)):
        return array
    raise ValueError(f"has shape {array.shape}: images are (n, height, width, 3)")
