"""Work on a thread of its own: what it gives, what it raises, what comes after it."""

import threading

import pytest

from mlx_lm.ahead import Ahead


def test_result_comes_from_another_thread() -> None:
    ahead = Ahead(threading.get_ident)
    assert ahead.result() == ahead.result() != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_errors_are_raised_where_the_result_is_asked_for(error: BaseException) -> None:
    def work() -> None:
        raise error

    after: list[int] = []
    ahead = Ahead(work, then=lambda: after.append(1))
    ahead.settle()
    with pytest.raises(type(error)) as caught:
        ahead.result()
    assert caught.value is error and after == []


def test_nobody_waits_for_what_comes_after() -> None:
    go, gone = threading.Event(), threading.Event()

    def then() -> None:
        assert go.wait(20)
        gone.set()
        raise ValueError("counts for nothing")

    assert Ahead(lambda: 5, then=then).result() == 5
    assert not gone.is_set()
    go.set()
    assert gone.wait(20)


def test_without_threads_the_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    order: list[str] = []
    ahead = Ahead(lambda: order.append("work"), then=lambda: order.append("then"))
    assert order == ["work", "then"]
    assert ahead.result() is None
