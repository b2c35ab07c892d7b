"""From annotations to the objects of a data set: shapes drawn one at a time, checked, packed."""

import difflib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from samtune.annotations import AnnotatedImage, Annotations, Shape, listed
from samtune.errors import DatasetError, ImageError
from samtune.images import image_size
from samtune.mask_files import Loaded, sha256_of, unreadable
from samtune.masks import DatasetObject, LabelReading, Meaning, digest_of, objects_in
from samtune.pairs import Fault, Pair, Pairing, Skipped, faults_error, in_pixels
from samtune.words import count


def load_annotations(
    place: Path,
    annotations: Annotations,
    category: str | None,
    objects: Meaning | None,
    on_progress: Callable[[int, int], None] | None,
) -> Loaded:
    """Draw and check all shapes.

    Args:
        place: what the user named, for messages.
        annotations: what was read.
        category: the target's name, or its id where no category is called so; None takes all.
        objects: what is one object: each of the "instances" (also when None), all of an image's
            together ("mask"), or every connected part of these ("components").
        on_progress: called with the number of images done and of all.

    Raises:
        DatasetError: faults, which are all counted; no such category; nothing left.
    """
    found = annotations.found
    chosen = set(annotations.categories)
    if category is not None:
        chosen = _chosen_categories(place, annotations, category)
    reading = LabelReading(objects or "instances", note=_note(annotations, category))
    number_of = {key: number for number, key in enumerate(annotations.categories, start=1)}
    kept: list[tuple[Pair, tuple[int, int], tuple[str, str]]] = []
    things: list[DatasetObject] = []
    for done, one in enumerate(annotations.images, start=1):
        size = _checked_size(one, found)
        if size is not None:
            wanted = [shape for shape in one.shapes if shape.category in chosen]
            drawn = _drawn(one, wanted, size, len(kept), number_of, found)
            new = _as_meant(drawn, reading, one, found)
            if new:
                digests = (sha256_of(one.image), digest_of(new))
                kept.append((Pair(one.image, one.source), size, digests))
                things += new
            elif not drawn:
                reason = "no object" if category is None else f"class {category} does not occur"
                found.skipped.append(Skipped(one.image, reason))
        if on_progress is not None:
            on_progress(done, len(annotations.images))
    if found.faults:
        raise faults_error(place, found)
    if not things:
        raise _nothing_left(place, annotations, category)
    pairs, sizes, digests_of = zip(*kept, strict=True)
    each_is_one = reading.meaning == "instances"
    return Loaded(
        pairs,
        sizes,
        digests_of,
        tuple(things),
        tuple(found.skipped),
        reading,
        categories=tuple(annotations.categories.values()) if each_is_one else (),
    )


def _checked_size(one: AnnotatedImage, found: Pairing) -> tuple[int, int] | None:
    """The image's size, or a fault noted."""
    try:
        size = image_size(one.image)
    except ImageError as error:
        found.faults.append(unreadable(one.image, error))
        return None
    if one.size not in (None, size):
        assert one.size is not None
        problem = f"is {in_pixels(size)}, and {in_pixels(one.size)} in {one.source.name}"
        if one.size == size[::-1]:
            problem += " (one of them is turned)"
        remedy = "Annotations are of images as they stand upright: export them again."
        found.faults.append(Fault(one.image, problem, remedy))
        return None
    return size


def _drawn(
    one: AnnotatedImage,
    shapes: list[Shape],
    size: tuple[int, int],
    image_index: int,
    number_of: dict[str, int],
    found: Pairing,
) -> list[DatasetObject]:
    """Each shape as a packed object; what is wrong with one is noted."""
    objects: list[DatasetObject] = []
    empty = 0
    for shape in shapes:
        try:
            mask = shape.draw(size)
        except ValueError as error:
            problem = f"{shape.name} ({one.image.name}) {error}"
            found.faults.append(Fault(one.source, problem, "Mend or remove what is named."))
            continue
        if mask.any():
            objects.append(DatasetObject.of(mask, image_index, number_of[shape.category]))
        else:
            empty += 1
    if empty:
        reason = f"{count(empty, 'object')} without a pixel"
        found.skipped.append(Skipped(one.image, reason))
    return objects


def _as_meant(
    drawn: list[DatasetObject], reading: LabelReading, one: AnnotatedImage, found: Pairing
) -> list[DatasetObject]:
    """The shapes themselves, or their union, or its parts."""
    if reading.meaning == "instances" or not drawn:
        return drawn
    union = np.zeros(drawn[0].size, dtype=np.uint8)
    for thing in drawn:
        union |= thing.mask()
    objects, specks = objects_in(union, reading, drawn[0].image_index)
    if specks:
        reason = f"{count(specks, 'speck')} too small to be an object"
        found.skipped.append(Skipped(one.image, reason))
    return objects


def _chosen_categories(place: Path, annotations: Annotations, wanted: str) -> set[str]:
    """The keys of a category, of which several may have the name: by that, and only then by id."""
    names = annotations.categories
    same = {key for key, name in names.items() if name == wanted}
    alike = {key for key, name in names.items() if name.casefold() == wanted.casefold()}
    for found in (same, {wanted} & set(names), alike):
        if found:
            return found
    folded = {name.casefold(): key for key, name in names.items()}
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1)
    hint = f" Is {names[folded[near[0]]]} meant?" if near else ""
    raise DatasetError(
        f"{place} has no class {wanted}; it has {_categories_in_words(annotations)}.{hint}"
    )


def _categories_in_words(annotations: Annotations) -> str:
    """The categories and how many objects each has."""
    counts = Counter(shape.category for one in annotations.images for shape in one.shapes)
    told = [
        f"{name if name == key else f'{key} {name}'} ({counts[key]})"
        for key, name in annotations.categories.items()
    ]
    return listed(told) if told else "none"


def _note(annotations: Annotations, category: str | None) -> str:
    """Tell that objects of several categories are taken together."""
    present = {shape.category for one in annotations.images for shape in one.shapes}
    names = [name for key, name in annotations.categories.items() if key in present]
    if category is not None or len(names) < 2:
        return ""
    return f"objects of {len(names)} classes taken together ({listed(names)}); --class takes one"


def _nothing_left(place: Path, annotations: Annotations, category: str | None) -> DatasetError:
    if category is None:
        return DatasetError(
            f"{place} holds no object that covers a pixel of its image: annotate some "
            "as polygons or masks (boxes, points and lines are no outlines)."
        )
    return DatasetError(
        f"{place} has no object of class {category}; it has {_categories_in_words(annotations)}."
    )
