"""Pairs: which files of a folder are images, and which are their masks.

Two layouts, told apart by looking:

    DATA/images/x.jpg  DATA/masks/x.png     same stems; masks/x_mask.png is found as well
    DATA/x.jpg         DATA/x.png           or DATA/x_mask.png

Only names are looked at here; dataset.py opens the files.
"""

import difflib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.errors import DatasetError
from samtune.images import FORMATS_IN_WORDS, IMAGE_SUFFIXES, read_image
from samtune.words import count

_LAYOUTS = (
    "DATA/images and DATA/masks with the same file names, x.jpg beside x.png or x_mask.png, "
    "YOLO or LabelMe files, or one COCO file"
)
_MASK_ENDING = "_mask"
OWN_ENDINGS = (  # of pictures that samtune makes: no photos to be segmented next time
    ".mask.png",
    ".instances.png",
    ".cutout.png",
    ".refined.png",
    ".overlay.jpg",
    ".sensitivity.png",
)
_LITTER = frozenset({"thumbs.db", "desktop.ini"})  # beside hidden files, as .DS_Store is one

NO_MASK = (
    "A mask has its image's name, in any image format: add or rename the mask, "
    "or move the image elsewhere."
)
_NAMED_FAULTS = 5  # in the message; the error's notes hold them all
SEVERAL = "Keep one image and one mask of each name."


@dataclass(frozen=True)
class Pair:
    """An image and its mask file; seen in a mirror, where `mirrored` says so."""

    image: Path
    mask: Path
    mirrored: bool = False

    def read(self) -> NDArray[np.uint8]:
        """The image, (H, W, 3) RGB, upright.

        Raises:
            ImageError: it cannot be read.
        """
        pixels = read_image(self.image)
        return np.ascontiguousarray(pixels[:, ::-1]) if self.mirrored else pixels


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why; nothing to mend."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Fault:
    """A file that the user has to mend: the sentence is its path and the problem."""

    path: Path
    problem: str
    remedy: str


@dataclass
class Pairing:
    """What a folder's file names say."""

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def has_masks(folder: Path) -> bool:
    """Whether a folder has images/ and masks/, or a mask beside any image."""
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return True
    try:
        return bool(find_pairs(folder).pairs)
    except DatasetError:
        return False


def not_permitted(error: OSError) -> DatasetError:
    """The error of a folder that may not be read."""
    return DatasetError(
        f"{error.filename} may not be read: change its permissions, or give another folder."
    )


def faults_error(place: Path, pairing: Pairing) -> DatasetError:
    """One error for all faults: it counts them, names the first, and has each as a note.

    Args:
        place: the folder or file that the user named; files below it are named as seen from there.
        pairing: with at least one fault.
    """
    faults = pairing.faults
    folder = place if place.is_dir() else place.parent
    sentences = [f"{_seen_from(folder, fault.path)} {fault.problem}" for fault in faults]
    named = "; ".join(sentences[:_NAMED_FAULTS])
    more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
    remedies = " ".join(dict.fromkeys(fault.remedy for fault in faults))
    message = f"{place} has {count(len(faults), 'fault')}: {named}{more}. {remedies}"
    error = DatasetError(message.rstrip())
    for sentence in sentences:
        error.add_note(sentence)
    return error


def in_pixels(size: tuple[int, ...]) -> str:
    """A size (H, W) in words, the width first as image viewers show it.

    Example:
        >>> in_pixels((480, 640))
        '640×480 px'
    """
    return f"{size[1]}×{size[0]} px"


def _seen_from(folder: Path, path: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def find_images(places: Iterable[Path]) -> list[Path]:
    """The images that are named, and all images below folders that are.

    Hidden files and folders are passed over without a word, and so are samtune's own pictures; of
    a folder with images/ and masks/, it is images/ that counts.

    Args:
        places: files, which are taken for images whatever they are, and folders.

    Returns:
        Files in the order of the places, in a folder that of their paths.

    Raises:
        DatasetError: a folder has no images, or may not be read.
    """
    found: list[Path] = []
    for place in places:
        if not _is_folder(place):
            found.append(place)
            continue
        of_pairs = (place / "images").is_dir() and (place / "masks").is_dir()
        folder = place / "images" if of_pairs else place
        below = [
            path
            for path in _files_below(folder)
            if _is_image(path) and not path.name.lower().endswith(OWN_ENDINGS)
        ]
        if not below:
            raise DatasetError(f"{folder} has no images in it ({FORMATS_IN_WORDS}).")
        found += sorted(below)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, and in no hidden folder."""

    def fail(error: OSError) -> None:  # os.walk passes over a folder that it cannot list
        raise not_permitted(error)

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError:  # whoever reads it says what is wrong with it
        return False


def find_pairs(folder: Path) -> Pairing:
    """Find the images of a folder and the mask of each.

    Hidden files and folders are passed over without a word.

    Args:
        folder: in one of the two layouts.

    Returns:
        Pairs in the order of the images' names; masks without an image and other files as
        skipped; images with no mask or several, as faults.

    Raises:
        DatasetError: no such folder, no permission to read it, or no image in it.
    """
    try:
        return _find_pairs(folder)
    except PermissionError as error:
        raise not_permitted(error) from error


def _find_pairs(folder: Path) -> Pairing:
    if not folder.is_dir():
        raise DatasetError(_no_folder(folder))
    pairing = Pairing()
    image_folder, mask_folder = folder / "images", folder / "masks"
    if image_folder.is_dir() and mask_folder.is_dir():
        images, masks = _image_files(image_folder, pairing), _image_files(mask_folder, pairing)
        pairing.skipped += _folders_of_images(image_folder)
    else:
        images, masks = _told_apart(_image_files(folder, pairing))
    if not images:
        raise DatasetError(_no_images(folder))
    _match(images, masks, pairing)
    return pairing


def _image_files(folder: Path, pairing: Pairing) -> list[Path]:
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _LITTER or path.is_dir():
            continue
        if _is_image(path):
            files.append(path)
        else:
            pairing.skipped.append(Skipped(path, f"not a {FORMATS_IN_WORDS} file"))
    return files


def _folders_of_images(folder: Path) -> list[Skipped]:
    """Folders within that somebody may take for a part of the data."""
    inner = {
        path.relative_to(folder).parts[0]
        for path in _files_below(folder)
        if path.parent != folder and _is_image(path)
    }
    return [Skipped(folder / name, "a folder within is not looked into") for name in sorted(inner)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _told_apart(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Images and masks that lie side by side in one folder."""
    by_stem = _by_stem(files)
    images: list[Path] = []
    masks: list[Path] = []
    for stem, same in by_stem.items():
        base = stem.removesuffix(_MASK_ENDING)
        if base != stem and (base in by_stem or len(same) == 1):
            masks += same
            continue
        # Masks are PNGs far more often than photos are; JPEG, being lossy, suits photos only.
        png = {path for path in same if path.suffix.lower() == ".png"}
        jpeg = {path for path in same if path.suffix.lower() in (".jpg", ".jpeg")}
        likely = png if len(png) < len(same) else set()
        likely = likely or (set(same) - jpeg if jpeg else set())
        images += [path for path in same if path not in likely]
        masks += [path for path in same if path in likely]
    return images, masks


def _match(images: list[Path], masks: list[Path], pairing: Pairing) -> None:
    images_of, masks_of = _by_stem(images), _by_stem(masks)
    used: set[Path] = set()
    unmatched: list[Path] = []
    for stem, (image, *same_name) in images_of.items():
        found = list(masks_of.get(stem, ()))
        if stem + _MASK_ENDING not in images_of:
            found += masks_of.get(stem + _MASK_ENDING, ())
        used.update(found)
        if same_name:
            problem = f"has the name of {same_name[0].name}, and a mask can belong to one only"
            pairing.faults.append(Fault(image, problem, SEVERAL))
        elif len(found) > 1:
            names = " and ".join(mask.name for mask in found)
            pairing.faults.append(Fault(image, f"has {len(found)} masks, {names}", SEVERAL))
        elif found:
            pairing.pairs.append(Pair(image, found[0]))
        else:
            unmatched.append(image)
    free = [mask for mask in masks if mask not in used]
    for image in unmatched:
        near = _nearest(image, free)
        hint = f" (is {near.name} meant?)" if near else ""
        pairing.faults.append(Fault(image, f"has no mask{hint}", NO_MASK))
    pairing.skipped += [Skipped(mask, "mask of no image") for mask in free]


def _by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path in files:
        # macOS writes é as two characters, others as one: the same name to a user.
        groups[unicodedata.normalize("NFC", path.stem)].append(path)
    return dict(groups)


def _nearest(image: Path, masks: list[Path]) -> Path | None:
    by_name = {mask.stem.removesuffix(_MASK_ENDING).casefold(): mask for mask in masks}
    names = difflib.get_close_matches(image.stem.casefold(), by_name, n=1)
    return by_name[names[0]] if names else None


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file: give the folder that holds the images and masks."
    kind = "file" if folder.suffix.lower() == ".json" else "folder"
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    names = [path.name for path in beside if path.is_dir() == (kind == "folder")]
    near = difflib.get_close_matches(folder.name, names, n=1)
    hint = f" Is {folder.with_name(near[0])} meant?" if near else ""
    return f"the {kind} {folder} does not exist.{hint or ' Give the folder of images and masks.'}"


def _no_images(folder: Path) -> str:
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    nested = [path for path in inside if (path / "images").is_dir()]
    if nested:
        names = ", ".join(path.name for path in nested)
        return f"{folder} holds data sets and is none itself: give one of {names} in it."
    for name, missing in (("images", "masks"), ("masks", "images")):
        if folder / name in inside and folder / missing not in inside:
            return f"{folder} has a folder {name} but none of {missing}: add {folder / missing}."
    return f"{folder} holds no images. Expected {_LAYOUTS} ({FORMATS_IN_WORDS})."
