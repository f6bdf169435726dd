"""Images that a user has: files, folders, arrays and pickles, as the network takes them."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from resnet_flax.data import pickles
from resnet_flax.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
PICKLES = (".pkl", ".pickle", ".p")


@dataclass
class Images:
    """Images out of `files`, one after the other; what could not be read or had to be changed is noted.

    `size` is (height, width) of the images that come out.
    """

    files: list[Path]
    size: tuple[int, int]
    unreadable: dict[str, str] = field(default_factory=dict)  # file -> why
    changed: dict[str, str] = field(default_factory=dict)  # image -> what it was like

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, image (height, width, 3) uint8) of everything that can be read."""
        for file in self.files:
            try:
                yield from self._read(file)
            except Exception as error:  # decoders of images raise nearly anything
                self.unreadable[str(file)] = (str(error) or type(error).__name__).splitlines()[0]

    def _read(self, file: Path) -> Iterator[tuple[str, np.ndarray]]:
        if is_pickle(file):
            names, arrays = read_pickle(file)
        elif file.suffix.lower() in (".npy", ".npz"):
            arrays = read_numpy(file)
            names = [f"{file}[{index}]" for index in range(len(arrays))]
        else:
            yield str(file), self._fit(str(file), open_image(file))
            return
        for name, array in zip(names, arrays, strict=True):
            yield name, self._fit(name, Image.fromarray(array))

    def _fit(self, name: str, image: Image.Image) -> np.ndarray:
        height, width = self.size
        if image.size != (width, height) or image.mode != "RGB":
            self.changed[name] = f"{image.width} x {image.height}, {image.mode}"
            if image.mode.startswith("I;16"):  # Pillow would cut off, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("RGBA" if "transparency" in image.info else image.mode).convert("RGB")
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)


def find(words: list[str]) -> list[Path]:
    """The files that `words` name, and in order all images below those that are folders.

    Raises UserError where one does not exist, and where there is no image at all.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            found += sorted(other for other in path.rglob("*") if other.suffix.lower() in IMAGES and other.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {word!r}")
    if not found:
        raise UserError(f"there are no images in {', '.join(words)}: looked for {' '.join(IMAGES)}")
    return found


def is_pickle(file: Path) -> bool:
    """By its ending or, with an ending that says nothing, by its first byte; CIFAR's own batches have no ending."""
    ending = file.suffix.lower()
    return ending in PICKLES or (ending not in (".npy", ".npz", *IMAGES) and file.read_bytes()[:1] in (b"\x80", b"("))


def open_image(file: Path) -> Image.Image:
    """The image in a file, upright; one that unpacks to more pixels than Pillow thinks safe is refused unread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)


def read_numpy(file: Path) -> np.ndarray:
    """The images (n, H, W, 3) or (n, H, W) of an .npy, or of the one array of them in an .npz."""
    content = np.load(file, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return as_images(content)
    with content:
        fitting = [name for name in content.files if content[name].dtype == np.uint8 and content[name].ndim >= 3]
        if len(fitting) != 1:
            raise ValueError(f"must hold one uint8 array of images, and holds {len(fitting)} of {content.files}")
        return as_images(content[fitting[0]])


def read_pickle(file: Path) -> tuple[list[str], np.ndarray]:
    """The ids and images of a pickle {b"data": ..., b"ids": ...}; without ids they are numbered from 0."""
    content = pickles.load(file)
    if not isinstance(content, dict):
        raise ValueError("must hold a dict with data, and perhaps ids")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if "data" not in named:
        raise ValueError(f"has no data, only {', '.join(map(str, named))}")
    images = as_images(np.asarray(named["data"]))
    ids = named.get("ids", range(len(images)))
    if len(ids) != len(images):
        raise ValueError(f"has {len(images)} images and {len(ids)} ids")
    return [one.decode("latin1") if isinstance(one, bytes) else str(one) for one in ids], images


def as_images(array: np.ndarray) -> np.ndarray:
    """(n, H, W, 3), or (n, H, W) for grey, of an array of images; a row of CIFAR's (n, 3072) is three planes."""
    if array.dtype != np.uint8:
        raise ValueError(f"holds {array.dtype}: images are uint8, from 0 to 255")
    if array.ndim == 2 and array.shape[1] == 3072:
        return np.ascontiguousarray(array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    if array.ndim == 4 and array.shape[-1] == 1:
        return array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return array[None]
    if array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (3, 4)):
        return array
    raise ValueError(f"has shape {array.shape}: images are (n, height, width, 3)")
