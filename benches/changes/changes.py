"""What a gateway goes through in a year, in a few minutes: changes, renewals and restarts under load.

Usage: changes.py --portcullis target/release/portcullis [--requests 1000000] [--out FILE]

Needs wrk, python3 and openssl. Starts the stand-in of the API, two echo origins, and the gateway under
a socket that stays open (tests/sdk/hand_over.py). While wrk sends requests, the configuration is changed 200 times in the way the
kubelet does, every other time to one with a mistake, certificates of a second listener are replaced 20 times, and the process is
replaced 5 times. Every answer is held against itself: it must be of one configuration, not half of two.

Then, without load, how long it is from a change to the first request that is decided on it.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LUA = """
bad, total = 0, 0
local thread_list = {}
function setup(thread) table.insert(thread_list, thread) end
function response(status, headers, body)
  total = total + 1
  local by_header = body:find('x%-v0%-member%-id') and 0 or (body:find('x%-v1%-member%-id') and 1 or -1)
  local by_origin = body:find('"address": "' .. ORIGIN0, 1, true) and 0 or (body:find('"address": "' .. ORIGIN1, 1, true) and 1 or -2)
  if status ~= 200 or by_header ~= by_origin then
    bad = bad + 1
    if bad < 4 then io.stderr:write(status .. ' ' .. body:sub(1, 300) .. '\\n') end
  end
end
function init(args)
  ORIGIN0, ORIGIN1 = args[1], args[2]
  wrk.headers['Authorization'] = 'Bearer ' .. args[3]
end
function done(summary, latency, requests)
  local b, t = 0, 0
  for _, thread in ipairs(thread_list) do b = b + thread:get('bad'); t = t + thread:get('total') end
  local e = summary.errors
  print(string.format('RESULT {"answers": %d, "bad": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d, "seconds": %.1f, "p50_ms": %.2f, "p99_ms": %.2f}',
    t, b, e.connect, e.read, e.write, e.timeout, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certificate(folder: pathlib.Path) -> None:
    """A new pair, each file renamed into its place as tools do that renew."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "next.key",
                    "-out", folder / "next.crt"], check=True, capture_output=True)
    os.rename(folder / "next.key", folder / "tls.key")
    os.rename(folder / "next.crt", folder / "tls.crt")


class Site:
    def __init__(self, program: str, folder: pathlib.Path):
        self.program, self.folder, self.number = program, folder, 0
        self.processes: list[subprocess.Popen] = []
        self.demos = [self.demo(number) for number in range(2)]
        self.traffic, self.secure, self.ops = free_port(), free_port(), free_port()
        certificate(folder)

    def demo(self, number: int) -> dict[str, str]:
        """A stand-in of the API with an echo origin beside it."""
        exported = self.folder / f"demo{number}.env"
        command = [self.program, "demo", "--port", "0", "--ops-port", "0", "--admin-port", "0", "--emulator-port", "0"]
        self.start(command + ["--export", str(exported)])
        while not exported.exists():
            time.sleep(0.05)
        return dict(line.split("=", 1) for line in exported.read_text().splitlines())

    def start(self, command: list[str], **options) -> subprocess.Popen:
        process = subprocess.Popen(command, stdout=options.pop("stdout", subprocess.DEVNULL), stderr=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def origin(self, number: int) -> str:
        """The echo's address, as its answers tell it."""
        demo = self.demos[number]
        request = urllib.request.Request(demo["GATEWAY_URL"] + "/", headers={"Authorization": "Bearer " + demo["JWT_VIEWER"]})
        return json.load(urllib.request.urlopen(request))["address"]

    def write(self, version: int | None) -> None:
        """A version of the configuration, or one with a mistake, behind a link that is renamed into its place."""
        self.number += 1
        demo = self.demos[0]
        folder = self.folder / f"..{self.number}"
        folder.mkdir()
        text = "routes: [" if version is None else f"""
listeners:
  - {{ address: 127.0.0.1:{self.traffic} }}
  - {{ address: 127.0.0.1:{self.secure}, name: tls, tls: {{ certificates: [ {{ certificate: {self.folder}/tls.crt, key: {self.folder}/tls.key }} ] }} }}
ops: {{ address: 127.0.0.1:{self.ops} }}
stytch: {{ project_id: {demo['PROJECT_ID']}, secret: {{ value: {demo['PROJECT_SECRET']} }}, base_url: "{demo['EMULATOR_URL']}" }}
identity: {{ header_prefix: x-v{version}- }}
upstreams: {{ v{version}: {{ url: "http://{self.origins[version]}" }} }}
log: {{ access: false }}
drain_delay: 1s
drain_timeout: 20s
routes: [ {{ name: v{version}, match: {{ path: /** }}, require: authenticated }} ]
"""
        (folder / "portcullis.yaml").write_text(text)
        os.symlink(folder, self.folder / "..next")
        os.rename(self.folder / "..next", self.folder / "..data")
        if not (self.folder / "portcullis.yaml").is_symlink():
            os.symlink("..data/portcullis.yaml", self.folder / "portcullis.yaml")

    def metrics(self) -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics").read().decode()

    def reloads(self) -> dict[str, int]:
        found = re.findall(r'portcullis_config_reloads_total\{result="(\w+)"\} (\d+)', self.metrics())
        counts = {result: int(count) for result, count in found}
        renewed = re.search(r'tls_certificate_reloads_total\{listener="tls",result="ok"\} (\d+)', self.metrics())
        return counts | {"certificates": int(renewed[1]) if renewed else 0}

    def wait_ready(self) -> None:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz")
                return
            except OSError:
                time.sleep(0.02)

    def version(self) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.traffic}/", headers={"Authorization": "Bearer " + self.demos[0]["JWT_VIEWER"]})
        return 0 if "x-v0-member-id" in json.load(urllib.request.urlopen(request))["headers"] else 1

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.stdin:
                # The supervisor ends what it started when its input ends.
                process.stdin.close()
            else:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def under_load(site: Site, requests: int) -> dict:
    supervisor = site.start([sys.executable, str(ROOT / "tests/sdk/hand_over.py"), f"127.0.0.1:{site.traffic}", site.program, "run", "-c",
                             str(site.folder / "portcullis.yaml")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    supervisor.stdout.readline()
    site.wait_ready()
    script = site.folder / "check.lua"
    script.write_text(LUA)
    totals: dict = {}
    results: list[dict] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set() or sum(one["answers"] for one in results) < requests:
            told = subprocess.run(["wrk", "-t1", "-c16", "-d10s", "--timeout", "10s", "-s", str(script), f"http://127.0.0.1:{site.traffic}/",
                                   "--", *site.origins, site.demos[0]["JWT_VIEWER"]], capture_output=True, text=True)
            if "RESULT" not in told.stdout:
                print(told.stdout, told.stderr, file=sys.stderr)
                return
            results.append(json.loads(told.stdout.split("RESULT ")[1]))
            if told.stderr:
                print(told.stderr, file=sys.stderr)

    loader = threading.Thread(target=load)
    loader.start()
    reloads: dict[str, int] = {}
    ended: list[str] = []
    for change in range(200):
        site.write(None if change % 2 else (change // 2 + 1) % 2)
        if change % 10 == 0:
            certificate(site.folder)
        # Longer than files are left to settle, so that each change is one.
        time.sleep(0.35)
        if change % 40 == 39:
            for result, count in site.reloads().items():
                reloads[result] = reloads.get(result, 0) + count
            # With the mistake in it, it would not start again.
            site.write(0)
            time.sleep(0.35)
            supervisor.stdin.write("again\n")
            supervisor.stdin.flush()
            ended.append(supervisor.stdout.readline().strip())
            supervisor.stdout.readline()
            site.wait_ready()
    for result, count in site.reloads().items():
        reloads[result] = reloads.get(result, 0) + count
    over.set()
    loader.join()
    for one in results:
        for key, value in one.items():
            totals[key] = max(totals.get(key, 0), value) if key.startswith("p") else totals.get(key, 0) + value
    totals["reloads"], totals["restarts"] = reloads, ended
    return totals


def time_to_decide(site: Site, changes: int) -> list[float]:
    """From the rename to the first answer by the new configuration, in milliseconds."""
    site.write(0)
    while site.version() != 0:
        time.sleep(0.01)
    time.sleep(1)
    times = []
    for change in range(changes):
        wanted = (change + 1) % 2
        began = time.monotonic()
        site.write(wanted)
        while site.version() != wanted:
            time.sleep(0.002)
        times.append((time.monotonic() - began) * 1e3)
        time.sleep(0.1)
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--portcullis", required=True)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(str(pathlib.Path(arguments.portcullis).resolve()), pathlib.Path(folder))
        try:
            site.origins = [site.origin(number) for number in range(2)]
            site.write(0)
            totals = under_load(site, arguments.requests)
            times = time_to_decide(site, 100)
        finally:
            site.stop()
    lost = totals["bad"] + totals["connect"] + totals["read"] + totals["write"] + totals["timeout"]
    lines = [
        f"- {totals['answers']} answers in {totals['seconds']:.0f} s, {lost} lost or of two configurations "
        f"({totals['bad']} bad, {totals['connect']} connect, {totals['read']} read, {totals['write']} write, {totals['timeout']} timeout); "
        f"worst p50 {totals['p50_ms']:.1f} ms, worst p99 {totals['p99_ms']:.1f} ms of any ten seconds",
        f"- changes: {totals['reloads']}; restarts: {totals['restarts']}",
        f"- from a change to the first request decided on it, {len(times)} times: median {statistics.median(times):.0f} ms, "
        f"p99 {times[int(len(times) * 0.99) - 1]:.0f} ms, most {times[-1]:.0f} ms",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")
    sys.exit(1 if lost else 0)


main()
