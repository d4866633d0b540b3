"""The server on a port: clients that stall, break off or never read; its end."""

import socket
import threading
from types import SimpleNamespace

import pytest
from service import PATIENCE, answer_of, colour_model, encoded, listening, pixels_in, until

from fullconv.serve.connections import Patient, patient
from fullconv.serve.settings import Limits

pytestmark = pytest.mark.usefixtures("one_thread")


def answered(served, body=None):
    return answer_of(served.send(body=encoded() if body is None else body))


def test_an_answer_over_the_network():
    image = encoded((40, 50), kind="PNG")
    with listening() as served:
        status, body = answered(served, image)
    assert status == 200
    assert (pixels_in(body) == pixels_in(image).argmax(2)).all()


def test_a_client_that_stalls_takes_its_own_slot_alone():
    image = encoded()
    with listening(limits=Limits(queue=2)) as served:
        stalled = served.send(body=image[:20], length=len(image))
        until(lambda: served.service.in_hand == 1)
        assert [answered(served)[0] for _ in range(3)] == [200] * 3
        another = served.send(body=image[:20], length=len(image))
        until(lambda: served.service.in_hand == 2)
        assert answered(served)[0] == 503
        stalled.sendall(image[20:])
        assert answer_of(stalled)[0] == 200
        another.close()
        until(lambda: served.service.in_hand == 0)


def test_half_a_body_gives_its_slot_back():
    image = encoded()
    with listening() as served:
        half = served.send(body=image[:20], length=len(image))
        until(lambda: served.service.in_hand == 1)
        half.shutdown(socket.SHUT_WR)
        until(lambda: served.service.in_hand == 0)
        assert answer_of(half)[0] in (0, 400)
        assert answered(served)[0] == 200


def test_a_body_that_takes_too_long_is_given_up():
    image = encoded()
    with listening(limits=Limits(timeout=0.1)) as served:
        stalled = served.send(body=image[:20], length=len(image))
        assert answer_of(stalled)[0] == 408
        until(lambda: served.service.in_hand == 0)


def test_a_client_that_left_is_not_worked_for():
    model = colour_model()
    with listening(model, Limits(batch=1)) as served:
        model.label.gate.clear()
        leaving = served.send(body=encoded())
        assert model.label.entered.acquire(timeout=PATIENCE)
        leaving.close()
        until(lambda: 'status="499"' in served.service.metrics.text().decode())
        assert served.service.in_hand == 1  # by a thread that can't be stopped
        model.label.gate.set()
        until(lambda: served.service.in_hand == 0)
        assert answered(served)[0] == 200


@pytest.mark.slow
def test_a_head_that_does_not_come_is_not_waited_for():
    with listening(limits=Limits(timeout=0.1)) as served:
        for begun in (b"", b"POST /v1/seg", b"GET /health/live HTTP/1.1\r\nHost: here\r\n"):
            connection = served.connect()
            connection.sendall(begun)
            assert answer_of(connection)[0] in (0, 400)


def test_a_large_body_is_refused_while_it_comes():
    with listening(limits=Limits(max_bytes=1000)) as served:
        assert answer_of(served.send(body=b"", length=1 << 40))[0] == 413
        chunked = served.connect()
        head = "POST /v1/segment HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunked.sendall(head.encode() + b"400\r\n" + bytes(1024) + b"\r\n")
        assert answer_of(chunked)[0] == 413
        assert served.service.in_hand == 0


def test_it_drains_before_it_ends():
    model = colour_model()
    with listening(model) as served:
        model.label.gate.clear()
        in_flight = served.send(body=encoded())
        assert model.label.entered.acquire(timeout=PATIENCE)
        served.server.handle_exit(15, None)
        assert answer_of(served.send(method="GET /health/ready"))[0] == 503
        assert answer_of(served.send(method="GET /health/live"))[0] == 200
        assert answered(served)[0] == 503
        model.label.gate.set()
        assert answer_of(in_flight)[0] == 200
        served.thread.join(PATIENCE)
        assert not served.thread.is_alive()
        with pytest.raises(OSError, match="refused"):
            served.connect()


def test_a_second_signal_does_not_wait():
    model = colour_model()
    with listening(model, Limits(timeout=1)) as served:
        model.label.gate.clear()
        in_flight = served.send(body=encoded())
        assert model.label.entered.acquire(timeout=PATIENCE)
        for _ in range(2):
            served.server.handle_exit(15, None)
        assert served.server.should_exit
        model.label.gate.set()
        answer_of(in_flight)


class Clock:
    """An event loop's timers, which run when a test says so."""

    def __init__(self):
        self.timers = []

    def call_later(self, seconds, call, *_):
        timer = SimpleNamespace(seconds=seconds, call=call, cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return timer

    @property
    def waiting(self):
        return [timer for timer in self.timers if not timer.cancelled]


def test_a_client_that_does_not_read_is_let_go():
    connection = patient(7.0).__new__(patient(7.0))
    assert isinstance(connection, Patient)
    aborted = threading.Event()
    connection.loop = Clock()
    connection.transport = SimpleNamespace(abort=aborted.set)
    connection.flow = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)
    connection.pause_writing()
    connection.resume_writing()
    assert connection.loop.waiting == []
    connection.pause_writing()
    (timer,) = connection.loop.waiting
    assert timer.seconds == 7.0
    timer.call()
    assert aborted.is_set()
