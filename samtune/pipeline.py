"""Reading, work and writing over many items, at the same time.

While one item is worked on, the next is read and the last written, each in a thread of its own;
never more than these three are in memory. Image files are decoded and written without Python's
global lock, and disks make one wait, so that little but the work itself takes time.
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Result = TypeVar("Result")


def overlap(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], Result],
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Take items through three stages, each of which sees them one by one and in their order.

    Args:
        items: taken one ahead of what is worked on.
        read: the first stage, in a thread.
        work: the second, in the caller's thread.
        write: the last, in another thread.

    Yields:
        Each item in order, with its result or the exception that any stage raised. An
        interruption, or closing the generator, waits for what has been worked on to be written.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = ((item, reader.submit(read, item)) for item in items)
        current = next(reading, None)
        last: tuple[Item, Future[Result]] | None = None
        while current is not None:
            item, pending = current
            current = next(reading, None)
            done: Future[Result] = Future()
            try:
                done = writer.submit(write, item, work(item, pending.result()))
            except Exception as error:  # whoever takes the result decides what it means
                done.set_exception(error)
            del pending  # or what was read would be kept for longer than it is of use
            if last is not None:
                yield last
            last = item, done
        if last is not None:
            yield last


def one_by_one(
    items: Iterable[Item], whole: Callable[[Item], Result]
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """The same for items that have to be answered before the next one comes."""
    for item in items:
        done: Future[Result] = Future()
        try:
            done.set_result(whole(item))
        except Exception as error:
            done.set_exception(error)
        yield item, done
