"""Shards: one of several runs that together are the whole run, for job arrays and GNU parallel.

What is one file's name away from another stays together: images that are called the same, and
lines about one image, are of the same shard, in the order of the whole run. Numbers in names of
results (x.2.mask.png) and files that grow (x.json of several prompts) are then those of the
whole run, and no shard needs to know what another one finds.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from samtune.errors import PromptError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` shards, counted from 1; 1 of 1 is the whole run."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read I/N.

        Raises:
            PromptError: it is not two whole numbers with 1 ≤ I ≤ N.

        Example:
            >>> Shard.parse("2/8")
            Shard(index=2, count=8)
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise PromptError(
                f"{text!r} is no shard: give I/N with I from 1 to N, for example 1/4 to 4/4."
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to share out."""
        return self.count == 1

    def stem(self, stem: str) -> str:
        """What a file of the whole run is called in this shard: coco.2-of-8.

        Example:
            >>> Shard(2, 8).stem("coco"), Shard().stem("coco")
            ('coco.2-of-8', 'coco')
        """
        return stem if self.is_whole else f"{stem}.{self.index}-of-{self.count}"

    def number(self, own: int) -> int:
        """A number that no other shard gives, for this shard's own 1, 2, 3, ...

        Example:
            >>> [Shard(2, 8).number(own) for own in (1, 2, 3)]
            [2, 10, 18]
        """
        return (own - 1) * self.count + self.index

    def deal(
        self, items: Iterable[Item], name: Callable[[Item], str | None]
    ) -> Iterator[tuple[Item, bool]]:
        """Go through the whole run: of the names, in order of appearance, every N-th is ours.

        Args:
            items: all items of the whole run.
            name: what keeps items together, in upper or lower case alike; None for an item that
                is on its own.

        Yields:
            Each item, and whether it is of this shard.

        Example:
            >>> list(Shard(1, 2).deal("abaca", str))
            [('a', True), ('b', False), ('a', True), ('c', True), ('a', True)]
        """
        ours: dict[str, bool] = {}
        dealt = 0
        for item in items:
            key = name(item)
            known = None if key is None else ours.get(key.casefold())
            if known is None:
                known = dealt % self.count == self.index - 1
                dealt += 1
                if key is not None and not self.is_whole:
                    ours[key.casefold()] = known
            yield item, known


WHOLE_RUN = Shard()
