"""The raw REPL of a board (shared/runtime/pyexec.c), for a unix MicroPython.

The unix port before 1.27 has a REPL for people alone: Ctrl-A does nothing there, and mpremote
cannot talk to it. This program, run by that MicroPython with its terminal as stdin and stdout,
answers as a board does: Ctrl-A, programs ended by Ctrl-D, raw-paste mode with its window. What it
is sent runs in that MicroPython, on its file system. A soft reset ends the process, as there.
"""

import sys

import micropython

_WINDOW = 2048

read = sys.stdin.buffer.read
write = sys.stdout.buffer.write


def read_program():
    """Return the source, or None for a command that was no program."""
    program = bytearray()
    while True:
        c = read(1)
        if not c:
            sys.exit()
        if c == b"\x05" and not program:
            if read(2) == b"A\x01":
                return read_pasted()
        elif c == b"\x01":
            write(b"raw REPL; CTRL-B to exit\r\n>")
            program = bytearray()
        elif c == b"\x02":
            return None
        elif c == b"\x03":
            program = bytearray()
        elif c == b"\x04":
            if not program:
                write(b"soft reboot\r\n")
                sys.exit()
            write(b"OK")
            return bytes(program)
        else:
            program.extend(c)


def read_pasted():
    """Raw-paste mode: the host may send a window ahead of what was taken."""
    write(b"R\x01" + bytes((_WINDOW & 255, _WINDOW >> 8)))
    program = bytearray()
    while True:
        c = read(1)
        if not c:
            sys.exit()
        if c == b"\x04":
            write(b"\x04")
            return bytes(program)
        program.extend(c)
        if len(program) % _WINDOW == 0:
            write(b"\x01")


def serve():
    names = {"__name__": "__main__"}
    while True:
        while read(1) != b"\x01":
            pass
        write(b"raw REPL; CTRL-B to exit\r\n>")
        while True:
            program = read_program()
            if program is None:
                write(b"\r\n>>> ")
                break
            trouble = None
            try:
                exec(program, names)  # noqa: S102 - that is what a REPL is for
            except SystemExit:
                pass
            except BaseException as error:
                trouble = error
            write(b"\x04")
            if trouble is not None:
                sys.print_exception(trouble)
            write(b"\x04>")


micropython.kbd_intr(-1)
sys.path[0] = ""  # as a board has it: not the folder of this program
serve()
