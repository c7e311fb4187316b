"""A rolling update as a cluster does it, with real processes: nobody may be lost.

Usage: rolling.py --portcullis target/release/portcullis [--rounds 4]

Needs haproxy and wrk. Two pods, each an application on loopback with Portcullis beside it, behind a balancer that asks `/readyz` and
repeats nothing. While wrk sends requests, one pod after the other is ended in the order of deploy/kubernetes/sidecar: the
preStop hooks at once (`portcullis drain`, and the application goes on for a while), then SIGTERM for the application, then for the
sidecar, then a new pod.
"""

import argparse
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

APPLICATION = """
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\\n")
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pod:
    def __init__(self, program: str, folder: pathlib.Path, number: int, demo: dict[str, str]):
        self.program, self.demo = program, demo
        self.traffic, self.ops, self.admin, self.port = (free_port() for _ in range(4))
        self.file = folder / f"pod{number}.yaml"
        self.file.write_text(f"""
listeners: [ {{ address: 127.0.0.1:{self.traffic} }} ]
ops: {{ address: 127.0.0.1:{self.ops} }}
admin: {{ address: 127.0.0.1:{self.admin}, token: {{ value: a-token-of-some-length }} }}
stytch: {{ project_id: {demo['PROJECT_ID']}, secret: {{ value: {demo['PROJECT_SECRET']} }}, base_url: "{demo['EMULATOR_URL']}" }}
upstreams: {{ app: {{ url: "http://127.0.0.1:{self.port}" }} }}
log: {{ access: false }}
drain_timeout: 20s
routes: [ {{ name: all, match: {{ path: /** }}, require: authenticated }} ]
""")
        self.start()

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.application = subprocess.Popen([sys.executable, "-c", APPLICATION, str(self.port)], **quiet)
        # A pod is ready once both are; the balancer asks one, which therefore comes last.
        self.wait(lambda: socket.create_connection(("127.0.0.1", self.port)).close())
        self.sidecar = subprocess.Popen([self.program, "run", "-c", self.file], **quiet)
        self.wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz"))

    @staticmethod
    def wait(attempt) -> None:
        while True:
            try:
                attempt()
                return
            except OSError:
                time.sleep(0.05)

    def end(self) -> tuple[int, int]:
        """In the order of the manifest, with shorter waits."""
        drain = subprocess.Popen([self.program, "drain", "-c", self.file, "--delay=2", "--timeout=5"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        time.sleep(4)
        self.application.send_signal(signal.SIGTERM)
        self.application.wait()
        drained = drain.wait()
        self.sidecar.send_signal(signal.SIGTERM)
        return drained, self.sidecar.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--portcullis", required=True)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.portcullis).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ports = ["--port", "0", "--ops-port", "0", "--admin-port", "0", "--emulator-port", "0"]
        demo = subprocess.Popen([program, "demo", *ports, "--export", folder / "demo.env"], stdout=subprocess.DEVNULL)
        while not (folder / "demo.env").exists():
            time.sleep(0.05)
        exported = dict(line.split("=", 1) for line in (folder / "demo.env").read_text().splitlines())
        pods = [Pod(program, folder, number, exported) for number in range(2)]
        front = free_port()
        servers = "\n".join(f"  server pod{number} 127.0.0.1:{pod.traffic} check port {pod.ops} inter 200ms fall 1 rise 1"
                            for number, pod in enumerate(pods))
        (folder / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  retries 0
frontend front
  bind 127.0.0.1:{front}
  default_backend pods
backend pods
  option httpchk GET /readyz
{servers}
""")
        balancer = subprocess.Popen(["haproxy", "-f", folder / "haproxy.cfg", "-db"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        seconds = arguments.rounds * 2 * 6 + 6
        told: list[str] = []
        header = "Authorization: Bearer " + exported["JWT_VIEWER"]
        loader = threading.Thread(target=lambda: told.append(subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{seconds}s", "--timeout", "10s", "-H", header, f"http://127.0.0.1:{front}/"],
            capture_output=True, text=True).stdout))
        loader.start()
        time.sleep(1)
        codes = []
        for _ in range(arguments.rounds):
            for pod in pods:
                codes.append(pod.end())
                pod.start()
                time.sleep(1)
        loader.join()
        for process in [balancer, *(pod.sidecar for pod in pods), *(pod.application for pod in pods), demo]:
            process.send_signal(signal.SIGTERM)
    requests = int(re.search(r"(\d+) requests in", told[0])[1])
    failed = re.findall(r"Socket errors.*|Non-2xx.*", told[0])
    print(f"- {len(codes)} pods ended one after another under {requests} requests: {failed or 'none failed'}; exit codes of drain and "
          f"sidecar: {sorted(set(codes))}")
    sys.exit(1 if failed or set(codes) != {(0, 0)} else 0)


main()
