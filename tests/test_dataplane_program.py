"""Programs: the kernel is driven towards what is wanted, at the cost of the change."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bgpcni.dataplane.program import At, Key, Local, Program, Remote, Value, Via

KEYS = [Key("fdb", "a"), Key("fdb", "b"), Key("neighbour", "c")]


def run(program: Program, kernel: dict[Key, Value], limit: int = 100, refuse: frozenset[Key] = frozenset()) -> int:
    """Make one batch of changes in a table that stands for the kernel; how many there were."""
    changes = program.take(limit)
    for change in changes:
        assert kernel.get(change.key) == change.old
        if change.key in refuse:
            program.failed(change, "no")
            continue
        if change.new is None:
            kernel.pop(change.key, None)
        else:
            kernel[change.key] = change.new
        program.done(change)
    return len(changes)


def test_only_what_differs_is_changed() -> None:
    """Wanting again what is there costs nothing; taking a wish back before it was made costs nothing."""
    program, kernel = Program(), dict[Key, Value]()
    program.want(KEYS[0], Remote("v1"))
    program.want(KEYS[1], Local(7))
    assert run(program, kernel) == 2
    program.want(KEYS[0], Remote("v1"))
    program.want(KEYS[2], At("m"))
    program.want(KEYS[2], None)
    assert run(program, kernel) == 0
    program.want(KEYS[0], Remote("v2"))
    assert run(program, kernel) == 1
    assert kernel == {KEYS[0]: Remote("v2"), KEYS[1]: Local(7)}


def test_what_an_earlier_life_left_is_held_until_released() -> None:
    """An adopted entry that nobody wants yet stays; wanted as it is it costs nothing; released it goes."""
    program, kernel = Program(), {KEYS[0]: Remote("v"), KEYS[1]: Remote("v")}
    for key, value in kernel.items():
        program.adopt(key, value)
    assert program.take(10) == []
    program.want(KEYS[0], Remote("v"))
    assert run(program, kernel) == 0
    program.release()
    assert run(program, kernel) == 1
    assert kernel == {KEYS[0]: Remote("v")}


def test_a_lost_device_is_filled_again() -> None:
    """All that is wanted is to be made again, and nothing that is not."""
    program, kernel = Program(), dict[Key, Value]()
    program.want(KEYS[0], Remote("v"))
    program.want(KEYS[1], Remote("v"))
    run(program, kernel)
    program.want(KEYS[1], None)
    program.lost()
    kernel.clear()
    assert run(program, kernel) == 1
    assert kernel == {KEYS[0]: Remote("v")}


def test_what_the_kernel_refused_waits_for_a_retry() -> None:
    """It is not tried in a loop; its reason is kept until it is done or not wanted."""
    program, kernel = Program(), dict[Key, Value]()
    program.want(KEYS[0], Via(None, 3))
    run(program, kernel, refuse=frozenset(KEYS))
    assert program.failures == {KEYS[0]: "no"}
    assert program.dirty == 0
    program.retry()
    assert run(program, kernel) == 1
    assert not program.failures


def test_the_chosen_keys_alone() -> None:
    """An ADD has its own entries made, whatever else waits."""
    program = Program()
    for key in KEYS:
        program.want(key, Remote("v"))
    assert [change.key for change in program.take(10, [KEYS[1]])] == [KEYS[1]]


values = st.one_of(st.none(), st.builds(Remote, st.sampled_from(["v", "w"])), st.builds(Local, st.integers(1, 2)))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sampled_from(KEYS), values),
        st.tuples(st.just("run"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("retry"), st.none(), st.none()),
        st.tuples(st.just("lost"), st.none(), st.none()),
        st.tuples(st.just("release"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(st.dictionaries(st.sampled_from(KEYS), values.filter(lambda value: value is not None)), steps)
def test_in_the_end_the_kernel_has_what_is_wanted(
    left: dict[Key, Value], told: Sequence[tuple[str, object, object]]
) -> None:
    """Whatever happened on the way, once released and retried the kernel has just the wishes."""
    program, kernel = Program(), dict(left)
    for key, value in left.items():
        program.adopt(key, value)
    wanted: dict[Key, Value] = {}
    for verb, first, second in told:
        if verb == "want":
            assert isinstance(first, Key)
            program.want(first, second)  # type: ignore[arg-type]
            wanted.pop(first, None)
            if second is not None:
                wanted[first] = second  # type: ignore[assignment]
        elif verb == "run":
            assert isinstance(first, int)
            run(program, kernel, first, frozenset(KEYS[:1]) if second else frozenset())
        elif verb == "retry":
            program.retry()
        elif verb == "lost":
            program.lost()
            kernel.clear()
        else:
            program.release()
        assert program.present == kernel
    program.release()
    program.retry()
    while program.dirty:
        run(program, kernel)
    assert kernel == wanted
    assert not program.failures
