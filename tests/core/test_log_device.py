"""The part "log": bounded, in order, in batches, never in the way of anything else."""

import json
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import PartDevice  # noqa: E402

from fleetnet_device import log  # noqa: E402


def make(is_open=True):
    device = PartDevice()
    device.is_open = is_open
    return device, log.Part(device)


def send_all(device, part):
    while part._lines:
        part._send_batch()
    return [tuple(json.loads(body)) for body in device.take()]


def test_lines_wait_for_a_session():
    device, part = make(is_open=False)
    part.add("info", "one")
    device.clock.now_ms += 250
    part.add("error", "two")
    assert device.tasks == []
    assert send_all(device, part) == [
        (1_700_000_000_000, 0, [[0, "info", "one"], [250, "error", "two"]])
    ]


async def test_a_session_sends_them_after_a_while():
    device, part = make(is_open=False)
    part.add("info", "one")
    device.is_open = True
    part.opened(None)
    part.add("info", "two")
    await device.settle()
    assert len(device.tasks) == 1
    assert device.sent == []
    await device.stop()


def test_lines_of_another_clock_begin_another_batch():
    device, part = make(is_open=False)
    device.clock.own_boot = 7
    device.clock.now_ms = 5_000
    part.add("info", "undated")
    device.clock.own_boot = 0
    device.clock.now_ms = 1_700_000_000_000
    part.add("info", "dated")
    device.clock.now_ms -= 10
    part.add("info", "set back")
    batches = send_all(device, part)
    assert [(base, boot, len(lines)) for base, boot, lines in batches] == [
        (5_000, 7, 1),
        (1_700_000_000_000, 0, 1),
        (1_699_999_999_990, 0, 1),
    ]


def test_the_oldest_go_and_are_counted():
    device, part = make(is_open=False)
    for number in range(100):
        part.add("debug", "line %d" % number)
    assert (len(part._lines), part.dropped) == (64, 36)
    lines = []
    for _base, _boot, some in send_all(device, part):
        assert len(some) <= 16
        lines.extend(some)
    assert lines[0] == [0, "warning", "36 lines of the log dropped"]
    assert lines[1:] == [[0, "debug", "line %d" % number] for number in range(36, 100)]


def test_dropped_readings_are_told_once():
    device, part = make(is_open=False)
    part.opened(None)
    device.dropped = 12
    part.opened(None)
    part.opened(None)
    ((_base, _boot, lines),) = send_all(device, part)
    assert lines == [[0, "warning", "12 readings dropped: the outbox was full"]]


def test_long_and_strange_texts_fit():
    device, part = make(is_open=False)
    for text in ("x" * 10_000, "\x00\n\"\\", "caf\u00e9 \u2028"):
        part.add("info", text)
    ((_base, _boot, lines),) = send_all(device, part)
    assert [line[2] for line in lines] == ["x" * 200, "\x00\n\"\\", "caf\u00e9 \u2028"]
    for level in ("", "fatal", "INFO"):
        try:
            part.add(level, "x")
        except ValueError:
            continue
        raise AssertionError("level %r was taken" % level)


class SmallRecord:
    """As micropython-lib's logging makes them: no getMessage."""

    def __init__(self, levelno, name, message):
        self.levelno = levelno
        self.name = name
        self.message = message


def test_a_handler_takes_records_of_micropython_lib():
    device, part = make(is_open=False)
    handler = part.handler(30)
    assert handler.level == 30
    for levelno in (5, 10, 20, 30, 40, 50, 90):
        handler.emit(SmallRecord(levelno, "app", "text"))
    ((_base, _boot, lines),) = send_all(device, part)
    levels = ["debug", "debug", "info", "warning", "error", "critical", "critical"]
    assert [line[1:] for line in lines] == [[level, "app: text"] for level in levels]


def test_a_handler_takes_records_of_this_interpreter():
    try:
        import logging
    except ImportError:
        return  # MicroPython has it on boards only
    device, part = make(is_open=False)
    logger = logging.getLogger("camera")
    logger.propagate = False
    handler = part.handler(30)
    logger.addHandler(handler)
    try:
        logger.info("too low")
        logger.warning("focus is %d", 7)
        logger.error("bad %d", "argument")
    finally:
        logger.removeHandler(handler)
    ((_base, _boot, lines),) = send_all(device, part)
    assert lines[0][1:] == ["warning", "camera: focus is 7"]
    assert lines[1][1] == "error" and lines[1][2].startswith("a record of the log: ")
    assert len(lines) == 2
