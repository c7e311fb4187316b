"""Keeps a listening socket open while the program that serves it is replaced, as a socket unit does.

Usage: hand_over.py HOST:PORT PROGRAM [ARGUMENT...]

Opens the socket, starts the program with it as descriptor 3, and prints `up PID`. For every line on standard input the program
is told to end, its exit code is printed as `ended CODE`, and it is started again; at the end of the input it is not.
"""

import os
import signal
import socket
import sys


def start(server: socket.socket, command: list[str]) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(server.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ["LISTEN_FDS"] = "1"
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.execv(command[0], command)
    print("up", child, flush=True)
    return child


def stop(child: int) -> None:
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    print("ended", os.waitstatus_to_exitcode(status), flush=True)


def main() -> None:
    host, port = sys.argv[1].rsplit(":", 1)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port)))
        server.listen(1024)
        child = start(server, sys.argv[2:])
        for _ in sys.stdin:
            stop(child)
            child = start(server, sys.argv[2:])
        stop(child)


main()
