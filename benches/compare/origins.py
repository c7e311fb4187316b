"""Servers that die, hang, flap and come back under load: what callers see of it, and for how long.

Four servers of one application; eight callers ask fifty times a second each, on connections they keep.
"""
import http.client
import os
import signal
import statistics
import threading
import time
import urllib.request

from systems import System, free_port, wait_for

CALLERS, RATE = 8, 50


class Application:
    """Four servers; each can be killed, stopped and started."""

    def __init__(self, rig, name):
        self.rig, self.name = rig, name
        self.ports = [free_port() for _ in range(4)]
        self.processes = [self._start(port) for port in self.ports]
        for port in self.ports:
            wait_for(port)

    def _start(self, port):
        return self.rig.nginx(f"{self.name}-{port}", f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}")

    def kill(self, index):
        self.processes[index].kill()
        self.processes[index].wait()

    def revive(self, index):
        self.processes[index] = self._start(self.ports[index])

    def hang(self, index):
        self.processes[index].send_signal(signal.SIGSTOP)

    def resume(self, index):
        self.processes[index].send_signal(signal.SIGCONT)

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def killed(application, until):
    """Half of them, at once; back after half the time."""
    application.kill(0)
    application.kill(1)
    time.sleep(max(0, (until - time.monotonic()) / 2))
    application.revive(0)
    application.revive(1)


def hung(application, until):
    """One takes connections and never answers; it goes on after half the time."""
    application.hang(0)
    time.sleep(max(0, (until - time.monotonic()) / 2))
    application.resume(0)


def flapping(application, until):
    """One dies and is back, every second."""
    while time.monotonic() < until - 1:
        application.kill(0)
        time.sleep(0.5)
        application.revive(0)
        time.sleep(0.5)


def all_down(application, until):
    """All of them for two seconds: what matters is how soon it is over."""
    for index in range(4):
        application.kill(index)
    time.sleep(2)
    for index in range(4):
        application.revive(index)


TROUBLES = {"none": lambda application, until: None, "half of them killed": killed, "one hangs": hung,
            "one flaps": flapping, "all down for 2 s": all_down}


def portcullis(rig, application):
    port, ops = free_port(), free_port()
    servers = ", ".join(f'"http://127.0.0.1:{port}"' for port in application.ports)
    file = rig.write("origins.yaml", f"""
listeners: [ {{ address: "127.0.0.1:{port}" }} ]
ops: {{ address: "127.0.0.1:{ops}" }}
stytch: {{ project_id: project-test-11111111-1111-4111-8111-111111111111, secret: {{ value: secret-test-emulator }}, base_url: "{rig.emulator}" }}
upstreams:
  app:
    servers: [{servers}]
    connect_timeout: 1s
    health: {{ path: /, every: 1s, timeout: 1s }}
    retries: {{ attempts: 1, per_try_timeout: 1s }}
    deadline: 5s
routes: [ {{ name: everything, match: {{ path: /** }}, require: authenticated }} ]
""")
    system = System("portcullis", port, lambda: [rig.spawn(rig.options.portcullis, "run", "-c", file, log="origins.log")])
    system.ops = ops
    return system


def nginx(rig, application):
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{port};" for port in application.ports)
    return System("nginx plain", port, lambda: [rig.nginx(f"front-{port}", f"""
  upstream app {{ {servers} keepalive 64; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_next_upstream_timeout 5s; }} }}""")])


def haproxy(rig, application):
    port = free_port()
    servers = "\n".join(f"  server s{index} 127.0.0.1:{port} check inter 1s" for index, port in enumerate(application.ports))
    file = rig.write(f"front-{port}.cfg", f"""
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 1s
  retries 2
  option redispatch 1
  retry-on conn-failure empty-response response-timeout
  option httpchk GET /
  balance leastconn
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
{servers}
""")
    return System("haproxy plain", port, lambda: [rig.spawn("haproxy", "-db", "-f", file)])


def call(port, token, until, seen):
    connection = None
    while (began := time.monotonic()) < until:
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/x", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            status, connection = 0, None
        except http.client.HTTPException:
            status, connection = 0, None
        seen.append((began, status, (time.monotonic() - began) * 1000))
        time.sleep(max(0, began + 1 / RATE - time.monotonic()))


def origins(rig, report, options):
    seconds = 8
    rows = []
    for name, trouble in TROUBLES.items():
        for make in (portcullis, nginx, haproxy):
            application = Application(rig, f"app-{make.__name__}")
            system = make(rig, application)
            try:
                if options.systems and system.name not in options.systems.split(","):
                    continue
                if make is haproxy and not rig.find("haproxy"):
                    continue
                system.start()
                time.sleep(1)
                seen, began = [], time.monotonic()
                until = began + seconds
                callers = [threading.Thread(target=call, args=(system.port, rig.tokens[index], until, seen))
                           for index in range(CALLERS)]
                for caller in callers:
                    caller.start()
                time.sleep(1)
                trouble(application, until - 1)
                for caller in callers:
                    caller.join()
                failed = [at for at, status, _ in seen if status != 200]
                took = sorted(took for _, _, took in seen)
                retries = "-"
                if make is portcullis:
                    text = urllib.request.urlopen(f"http://127.0.0.1:{system.ops}/metrics").read().decode()
                    retries = next(line.rsplit(" ", 1)[1] for line in text.splitlines()
                                   if line.startswith("portcullis_upstream_retries_total"))
                span = f"{max(failed) - min(failed):.1f}" if failed else "-"
                rows.append([name, system.name, str(len(seen)), str(len(failed)), span, retries, f"{statistics.median(took):.1f}",
                             f"{took[int(len(took) * 0.99)]:.1f}", f"{took[-1]:.0f}"])
            finally:
                system.stop()
                application.stop()
    report.table("Servers in trouble", ["trouble", "system", "asked", "failed", "from first to last failure s", "sent again",
                                        "p50 ms", "p99 ms", "longest ms"], rows,
                 f"Four servers, {CALLERS} callers of {RATE} requests a second for {seconds} s; the trouble begins after one. Health "
                 "checks every second where a system has them; a second for a connection, and for an answer.")
