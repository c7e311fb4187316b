"""What is measured, and the report of it."""
import os
import platform
import re
import socket
import statistics
import subprocess
import time
from pathlib import Path


class Report:
    """Markdown, grown table by table."""

    def __init__(self, options):
        self.options, self.notes, self.tables = options, [], []

    def note(self, text):
        self.notes.append(text)

    def table(self, title, columns, rows, remark=""):
        lines = [f"## {title}", ""] + ([remark, ""] if remark else [])
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        self.tables.append("\n".join(lines))
        print("\n".join(lines), end="\n\n", flush=True)

    def markdown(self):
        processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        head = [
            "# Portcullis beside other proxies", "",
            f"`python3 benches/compare/compare.py`, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores "
            f"({processor.group(1) if processor else platform.machine()}), Linux {platform.release()}. Everything on core "
            f"{self.options.core}: the systems, the origin and the load; {self.options.rounds} rounds of "
            f"{self.options.seconds:g} s a system, taken in turns; median [least-most]. CPU is user and kernel time of all "
            "processes an architecture needs, origin and load not among them. Portcullis writes its access log and "
            "decision records and counts its metrics; the others log nothing. Quote ratios, not microseconds.", "",
            *[f"- {note}" for note in self.notes], ""]
        return "\n".join(head) + "\n" + "\n\n".join(self.tables) + "\n"


def spread(values, digits=1):
    if not values:
        return "-"
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"**{middle:.{digits}f}** [{least:.{digits}f}-{most:.{digits}f}]"


def pinned(rig, *command):
    return ["taskset", "-c", str(rig.options.core), *map(str, command)]


def run(rig, *command, timeout=120):
    return subprocess.run(pinned(rig, *command), capture_output=True, text=True, timeout=timeout, env=rig.environment())


def wrk_script(rig, name, path, body=False):
    """A script that sends the tokens in turn; every request is written beforehand."""
    tokens = rig.write("tokens.txt", "\n".join(rig.tokens) + "\n")
    method = "POST" if body else "GET"
    return rig.write(f"{name}.lua", f"""
local requests, at = {{}}, 0
function init(arguments)
  local body = {'string.rep("x", 1024 * 1024)' if body else 'nil'}
  for token in io.lines("{tokens}") do
    requests[#requests + 1] = wrk.format("{method}", "{path}", {{ ["Authorization"] = "Bearer " .. token,
      ["Host"] = wrk.headers["Host"], ["User-Agent"] = "compare/1" }}, body)
    if body and #requests == 8 then break end
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
""")


def wrk(rig, url, script, seconds, connections=64):
    """Requests answered well, and the seconds they took."""
    done = run(rig, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script, "--timeout", "10s", url)
    count = re.search(r"(\d+) requests in ([\d.]+)(m?s)", done.stdout)
    if not count:
        raise RuntimeError(f"wrk said: {done.stdout} {done.stderr}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    if bad:
        raise RuntimeError(f"{url}: {bad.group(1)} of {count.group(1)} requests were not answered well")
    took = float(count.group(2)) / (1000 if count.group(3) == "ms" else 1)
    return int(count.group(1)), took


def in_turns(rig, options, chosen, drive, warm=None):
    """Drives the systems round by round; gives what each round gave, by system."""
    if options.systems:
        chosen = [system for system in chosen if system.name in options.systems.split(",")]
    gathered = {system.name: [] for system in chosen}
    working = []
    for system in chosen:
        try:
            system.start()
            rig.wait_for_answer(system)
            (warm or drive)(system)
            working.append(system)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            rig.left_out.append(f"{system.name}: {error}")
            print(f"left out: {system.name}: {error}", flush=True)
            system.stop()
    try:
        for _ in range(options.rounds):
            for system in working:
                gathered[system.name].append(drive(system))
    finally:
        for system in working:
            system.stop()
    return {name: rounds for name, rounds in gathered.items() if rounds}


def saturated(rig, options, chosen, path="/x"):
    """CPU per request in microseconds, and requests a second, with 64 connections that never wait."""
    file = wrk_script(rig, "saturated", path)

    def drive(system, seconds=options.seconds):
        before = system.cpu()
        count, took = wrk(rig, f"http://127.0.0.1:{system.port}{path}", file, seconds)
        return (system.cpu() - before) / count * 1e6, count / took
    return in_turns(rig, options, chosen, drive, warm=lambda system: drive(system, 1))


def compared(report, title, found, base, remark=""):
    middle = {name: statistics.median(cpu for cpu, _ in rounds) for name, rounds in found.items()}
    rows = []
    for name in sorted(found, key=middle.get):
        ratio = f"{middle[name] / middle[base]:.2f}" if base in middle else "-"
        rows.append([name, spread([cpu for cpu, _ in found[name]]), ratio, f"{statistics.median(rate for _, rate in found[name]):,.0f}"])
    report.table(title, ["system", "CPU µs a request", f"× {base}", "requests/s, all on the one core"], rows, remark)


def authenticated(rig, report, options):
    chosen = [*rig.own(), rig.nginx_plain(), rig.nginx_auth(), rig.nginx_auth(cached=True), *rig.peers(
        ("haproxy", rig.haproxy), ("haproxy", lambda: rig.haproxy(verify=True)),
        ("envoy", rig.envoy), ("envoy", lambda: rig.envoy("jwt_authn")), ("envoy", lambda: rig.envoy("ext_authz")),
        ("caddy", rig.caddy), ("traefik", rig.traefik))]
    found = saturated(rig, options, chosen)
    compared(report, "An authenticated request, everything cached", found, "nginx plain",
             "Tokens change with every request. \"Plain\" only forwards them; `jwt_verify` and `jwt_authn` look at the "
             "signature and know nothing of sessions; `auth_request`, `ext_authz` and forward-auth ask a Portcullis "
             "(its page `/.portcullis/whoami`), whose CPU counts.")


def public(rig, report, options):
    chosen = [*rig.own(), rig.nginx_plain(), *rig.peers(("haproxy", rig.haproxy), ("envoy", rig.envoy))]
    compared(report, "A public route", saturated(rig, options, chosen, path="/public/x"), "nginx plain",
             "The same requests with their tokens.")


def unix(rig, report, options):
    to = f"unix:{rig.origin_socket}"
    chosen = [*rig.own(), *rig.own(name="portcullis, unix", origin=to), rig.nginx_plain()]
    over = rig.nginx_plain(unix=True)
    over.name = "nginx plain, unix"
    chosen.append(over)
    if rig.find("haproxy"):
        over = rig.haproxy(unix=True)
        over.name = "haproxy plain, unix"
        chosen.append(over)
    compared(report, "An origin over a Unix socket, authenticated", saturated(rig, options, chosen), "nginx plain")


def rate(rig, report, options):
    """Latency at 2,000 requests a second, from h2load's log of every request."""
    token = rig.tokens[0]

    def drive(system):
        log = rig.directory / "h2load.log"
        log.unlink(missing_ok=True)
        before = system.cpu()
        done = run(rig, "h2load", "--h1", "-c", "20", "--rps", "100", "-D", max(2, round(options.seconds)), "--log-file", log,
                   "-H", f"authorization: Bearer {token}", f"http://127.0.0.1:{system.port}/x")
        used = system.cpu() - before
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        times = sorted(int(line[2]) for line in lines if line[1] == "200")
        if not times:
            raise RuntimeError(f"{system.name}: nothing was answered: {done.stdout}")
        return times[len(times) // 2], times[len(times) * 99 // 100], used / len(times) * 1e6
    chosen = [*rig.own(), rig.nginx_plain(), rig.nginx_auth(), *rig.peers(
        ("haproxy", rig.haproxy), ("envoy", rig.envoy), ("envoy", lambda: rig.envoy("ext_authz")))]
    found = in_turns(rig, options, chosen, drive)
    rows = [[name, spread([round_[0] for round_ in rounds], 0), spread([round_[1] for round_ in rounds], 0),
             spread([round_[2] for round_ in rounds])] for name, rounds in found.items()]
    report.table("2,000 requests a second", ["system", "p50 µs", "p99 µs", "CPU µs a request"], rows,
                 "20 connections, one token. The generator lets its connections go together, so a hundred times a second twenty "
                 "requests arrive at once: what is measured is the wait in such a burst.")


def bodies(rig, report, options):
    rows = {}
    for way in ("download", "upload"):
        upload = way == "upload"
        path = "/public/x" if upload else "/mebibyte"
        file = wrk_script(rig, way, path, body=upload)

        def drive(system, seconds=options.seconds, path=path, file=file):
            before = system.cpu()
            count, _ = wrk(rig, f"http://127.0.0.1:{system.port}{path}", file, seconds, connections=8)
            return count * 1.048576 / (system.cpu() - before)
        chosen = [*rig.own(), rig.nginx_plain(), *rig.peers(("haproxy", rig.haproxy), ("envoy", rig.envoy))]
        found = in_turns(rig, options, chosen, drive, warm=lambda system, drive=drive: drive(system, 1))
        for name, rounds in found.items():
            rows.setdefault(name, [name]).append(spread(rounds, 0))
    report.table("Bodies of 1 MiB, eight connections", ["system", "download, MB per CPU second", "upload"], list(rows.values()))


def tls(rig, report, options):
    file = wrk_script(rig, "tls", "/x")

    def drive(system):
        before = system.cpu()
        done = run(rig, "openssl", "s_time", "-connect", f"127.0.0.1:{system.port}", "-new", "-time",
                   max(2, round(options.seconds)), "-tls1_3")
        count = int(re.search(r"(\d+) connections in \d+ real", done.stdout).group(1))
        handshake = (system.cpu() - before) / count * 1e6
        before = system.cpu()
        count, _ = wrk(rig, f"https://127.0.0.1:{system.port}/x", file, options.seconds)
        return handshake, (system.cpu() - before) / count * 1e6
    chosen = [*rig.own(tls=True), rig.nginx_plain(tls=True), *rig.peers(("haproxy", lambda: rig.haproxy(tls=True)))]
    found = in_turns(rig, options, chosen, drive)
    rows = [[name, spread([round_[0] for round_ in rounds], 0), spread([round_[1] for round_ in rounds])]
            for name, rounds in found.items()]
    report.table("TLS 1.3, ECDSA P-256", ["system", "CPU µs a full handshake", "CPU µs a request kept alive"], rows,
                 "Handshakes by `openssl s_time -new`, nothing resumed.")


def http2(rig, report, options):
    token = rig.tokens[0]

    def drive(system):
        before = system.cpu()
        done = run(rig, "h2load", "-c", "8", "-m", "32", "-D", max(1, round(options.seconds)),
                   "-H", f"authorization: Bearer {token}", f"http://127.0.0.1:{system.port}/x")
        count = int(re.search(r"status codes: (\d+) 2xx", done.stdout).group(1))
        if count == 0:
            raise RuntimeError(f"{system.name}: nothing was answered: {done.stdout}")
        return (system.cpu() - before) / count * 1e6, count / options.seconds
    chosen = [*rig.own(), rig.nginx_http2(), *rig.peers(("haproxy", lambda: rig.haproxy(http2=True)),
                                                        ("envoy", rig.envoy))]
    compared(report, "HTTP/2 in the clear, 8 connections of 32 streams", in_turns(rig, options, chosen, drive),
             "haproxy plain", "One token; HTTP/1.1 to the origin.")


def memory(rig, report, options):
    rows = []
    chosen = [*rig.own(), rig.nginx_plain(), *rig.peers(("haproxy", rig.haproxy), ("envoy", rig.envoy))]
    if options.systems:
        chosen = [system for system in chosen if system.name in options.systems.split(",")]
    for system in chosen:
        system.start()
        try:
            idle = system.resident()
            # What a first request sets up is not the price of a connection.
            hold(rig, system, 50, 0)
            warm = system.resident()
            clear = hold(rig, system, options.connections, 8)
            rows.append([system.name, f"{idle / 1024:.1f}", f"{warm / 1024:.1f}", f"{(clear - warm) / options.connections:.2f}",
                         f"{clear / 1024:.0f}"])
        finally:
            system.stop()
    secure = []
    for system in [*rig.own(tls=True), rig.nginx_plain(tls=True), *rig.peers(("haproxy", lambda: rig.haproxy(tls=True)))]:
        if options.systems and system.name not in options.systems.split(","):
            continue
        system.start()
        try:
            hold(rig, system, 50, 0, tls=True)
            warm, count = system.resident(), min(options.connections, 2000)
            secure.append([system.name, f"{(hold(rig, system, count, 8, tls=True) - warm) / count:.2f}"])
        finally:
            system.stop()
    report.table(f"Memory: {options.connections} connections, one request each, then idle",
                 ["system", "started MiB", "after 50 connections MiB", "KiB a connection", "in all MiB"], rows,
                 "Proportional set size of every process.")
    report.table(f"Memory: {min(options.connections, 2000)} connections under TLS", ["system", "KiB a connection"], secure)


def hold(rig, system, count, rest, tls=False):
    """Opens connections, asks once on each, lets them rest, and reads what the system holds."""
    import ssl
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    held = []
    try:
        for index in range(count):
            connection = socket.create_connection(("127.0.0.1", system.port), 10)
            if tls:
                connection = context.wrap_socket(connection)
            connection.sendall(f"GET /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {rig.tokens[index % len(rig.tokens)]}"
                               "\r\n\r\n".encode())
            answer = b""
            while len(answer) < 1024 or b"\r\n\r\n" not in answer:
                piece = connection.recv(65536)
                if not piece:
                    raise RuntimeError(f"{system.name} closed connection {index}: {answer[:100]!r}")
                answer += piece
            held.append(connection)
        time.sleep(rest)
        return system.resident()
    finally:
        for connection in held:
            connection.close()
