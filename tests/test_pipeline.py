"""Three stages over many items: in order, overlapping, and each item's failure its own."""

import threading

import pytest

from samtune.pipeline import one_by_one, overlap

PATIENCE = 10  # seconds until a test gives up waiting for another thread


class Stages:
    """Stages that note what they do; an item of a stage's name makes it fail."""

    def __init__(self):
        self.done = []

    def run(self, items):
        return overlap(items, self.read, self.work, self.write)

    def note(self, stage, item):
        if item == stage:
            raise ValueError(f"cannot {stage}")
        self.done.append((stage, item))

    def read(self, item):
        self.note("read", item)
        return f"{item} read"

    def work(self, item, read):
        self.note("work", item)
        return f"{read}, worked"

    def write(self, item, worked):
        self.note("write", item)
        return f"{worked}, written"


@pytest.mark.parametrize("items", [[], ["a"], ["a", "b", "c", "a"]])
def test_results_come_in_order_through_all_stages(items):
    found = [(item, done.result()) for item, done in Stages().run(items)]
    assert found == [(item, f"{item} read, worked, written") for item in items]


def test_what_fails_in_any_stage_fails_alone():
    items = ["a", "read", "work", "b", "write", "c"]
    found = {item: done for item, done in Stages().run(items)}
    assert list(found) == items
    for name in ("read", "work", "write"):
        with pytest.raises(ValueError, match=f"cannot {name}"):
            found[name].result()
    for name in "abc":
        assert found[name].result() == f"{name} read, worked, written"


def test_the_next_is_read_and_the_last_written_while_one_is_worked_on():
    started = {stage: {item: threading.Event() for item in "abc"} for stage in ("read", "work")}

    def read(item):
        started["read"][item].set()

    def work(item, _):
        started["work"][item].set()
        # Would wait in vain if reading waited for the work.
        following = {"a": "b", "b": "c"}.get(item, "c")
        assert started["read"][following].wait(PATIENCE)

    def write(item, _):
        following = {"a": "b", "b": "c"}.get(item, "c")
        assert started["work"][following].wait(PATIENCE)

    for _, done in overlap("abc", read, work, write):
        done.result(PATIENCE)


def test_no_more_than_one_item_is_taken_ahead():
    taken = []

    def items():
        for item in range(6):
            taken.append(item)
            yield item

    ahead = []

    def work(item, _):
        ahead.append(len(taken) - item)

    for _, done in overlap(items(), lambda item: item, work, lambda item, worked: item):
        done.result()
    assert max(ahead) == 2  # itself and the next one


def test_an_interruption_lets_what_was_worked_on_be_written():
    stages = Stages()

    def work(item, read):
        if item == "b":
            raise KeyboardInterrupt
        return stages.work(item, read)

    with pytest.raises(KeyboardInterrupt):
        list(overlap("abc", stages.read, work, stages.write))
    assert ("write", "a") in stages.done
    assert ("work", "c") not in stages.done


def test_closing_waits_for_what_is_being_written():
    stages = Stages()
    running = stages.run("abcd")
    next(running)
    running.close()
    written = [item for stage, item in stages.done if stage == "write"]
    worked = [item for stage, item in stages.done if stage == "work"]
    assert written == worked == ["a", "b"]


def test_one_by_one_answers_each_before_the_next_comes():
    events = []

    def items():
        for item in "ab":
            events.append(f"{item} comes")
            yield item

    def whole(item):
        if item == "b":
            raise ValueError("no b")
        return item.upper()

    for item, done in one_by_one(items(), whole):
        events.append(f"{item} fails" if done.exception() else f"{item} is {done.result()}")
    assert events == ["a comes", "a is A", "b comes", "b fails"]
