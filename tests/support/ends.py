"""What standard error may be: the reader's and the writer's file descriptor of each kind."""

import os
import pty
import socket
import termios
import tty


def a_pipe() -> tuple[int, int]:
    return os.pipe()


def a_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def a_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    tty.setraw(theirs, termios.TCSANOW)  # or it would make two characters of each line's end
    return ours, theirs
