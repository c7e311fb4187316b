#!/usr/bin/env python3
"""Real clients that speak HTTP Basic, through the gateway.

    basic_clients.py PROGRAM

Runs PROGRAM as the stand-in of the API and as the gateway, puts a git server, a Python package
index and a container registry behind it, and uses them with `git`, `pip` and `skopeo`. The password
is a session token; the user name is anything. One line per check; exit code 1 if one failed. What is
not installed is skipped, with the reason.
"""

import base64
import filecmp
import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

WHOLE_RUN = 240
ONE_COMMAND = 60
ONE_REQUEST = 15

started = []
failures = 0


def check(name, good, detail=""):
    """Prints one line, and the reason below it if the check failed."""
    global failures
    print(f"{'ok    ' if good else 'FAILED'}  {name}", flush=True)
    if not good:
        failures += 1
        for line in str(detail).strip().splitlines()[-6:]:
            print(f"          {line[:400]}")
    return good


def free_ports(count):
    """Numbers of ports that were free a moment ago; all held at once, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return numbers


def start(command, log, env=None):
    """Starts a process that `end_all` ends."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, env=env)
    started.append(process)
    return process


def end_all():
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def run(command, env, cwd=None):
    """Runs a client to its end; gives its exit code and everything it said."""
    try:
        done = subprocess.run(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=ONE_COMMAND, check=False)
        return done.returncode, done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as late:
        return 124, f"no end after {ONE_COMMAND} s: {(late.stdout or b'').decode('utf-8', 'replace')}"


def ask(port, path, headers=None, method="GET"):
    """Sends one request; gives the status, the headers as a list, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ONE_REQUEST)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


def wait_until(what, question, patience=20):
    """Asks until the answer is yes."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if question():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{what} did not come up within {patience} s")


class Relay:
    """A relay of TCP connections that keeps what clients sent, and may edit what is answered."""

    def __init__(self, target, edit=None):
        self.target = target
        self.edit = edit
        self.sent = {}
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        number = 0
        while True:
            client, _ = self.listener.accept()
            number += 1
            threading.Thread(target=self.connect, args=(number, client), daemon=True).start()

    def connect(self, number, client):
        try:
            origin = socket.create_connection(("127.0.0.1", self.target), timeout=ONE_REQUEST)
        except OSError:
            client.close()
            return
        origin.settimeout(None)
        with self.lock:
            self.sent[number] = bytearray()
        threading.Thread(target=self.pump, args=(client, origin, number), daemon=True).start()
        self.pump(origin, client, None)

    def pump(self, source, sink, number):
        try:
            while piece := source.recv(65536):
                if number is not None:
                    with self.lock:
                        self.sent[number] += piece
                elif self.edit:
                    piece = self.edit(piece)
                sink.sendall(piece)
        except OSError:
            pass
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def seen(self):
        with self.lock:
            return b"\r\n".join(bytes(one) for one in self.sent.values())

    def requests(self):
        """How many request lines went by."""
        return len(re.findall(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE) /\S* HTTP/1\.1\r\n", self.seen()))

    def forget(self):
        with self.lock:
            for one in self.sent.values():
                one.clear()

    def has_authorization(self):
        return re.search(rb"(?im)^(proxy-)?authorization[ \t]*:", self.seen()) is not None


def git_handler(root, env):
    """A handler that answers by `git http-backend`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def body(self):
            if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)

        def answer(self):
            path, _, query = self.path.partition("?")
            body = self.body()
            cgi = dict(env, GIT_PROJECT_ROOT=str(root), GIT_HTTP_EXPORT_ALL="1",
                       PATH_INFO=urllib.parse.unquote(path).removeprefix("/git"), QUERY_STRING=query,
                       REQUEST_METHOD=self.command, CONTENT_LENGTH=str(len(body)),
                       CONTENT_TYPE=self.headers.get("Content-Type", ""),
                       HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
                       GIT_PROTOCOL=self.headers.get("Git-Protocol", ""), REMOTE_ADDR="127.0.0.1")
            done = subprocess.run(["git", "http-backend"], input=body, env=cgi, capture_output=True,
                                  timeout=ONE_COMMAND, check=False)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line]
            status = next((int(value[:3]) for name, value in fields if name == "Status"), 200)
            self.send_response(status)
            for name, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

    return Handler


def index_handler(root):
    """A handler that answers with the files of the package index."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(root), **kwargs)

        def log_message(self, *_):
            pass

    return Handler


def serve(handler):
    """Serves in a thread; gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def challenges(headers):
    return [value for name, value in headers if name.lower() == "www-authenticate"]


def refused(what, port, path, headers=None):
    """Checks that a request without credentials gets 401 and an offer of Basic."""
    status, answered, _ = ask(port, path, headers)
    offers = challenges(answered)
    check(f"{what}: without credentials {path} answers 401 and offers Basic",
          status == 401 and any(re.match(r"(?i)basic\b", one) for one in offers), f"{status} {offers}")


def unseen(what, tap, tokens):
    """Checks that nothing an origin was sent holds a credential."""
    check(f"{what}: the origin was asked ({tap.requests()} requests), and never with Authorization",
          tap.requests() > 0 and not tap.has_authorization())
    seen = tap.seen()
    written = [one.encode() for one in tokens]
    written += [base64.b64encode(f"{user}:{one}".encode()) for one in tokens for user in ("any", "other")]
    check(f"{what}: the token is nowhere in what the origin was sent",
          not any(one in seen for one in written))


def try_git(place, env, port, tap, tokens):
    token, jwt = tokens
    env = dict(env, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0",
               GIT_ASKPASS="true", GIT_AUTHOR_NAME="A", GIT_AUTHOR_EMAIL="a@example.com",
               GIT_COMMITTER_NAME="A", GIT_COMMITTER_EMAIL="a@example.com")
    plain = f"http://127.0.0.1:{port}/git/demo.git"

    def url(user, password):
        return f"http://{user}:{password}@127.0.0.1:{port}/git/demo.git"

    refused("git", port, "/git/demo.git/info/refs?service=git-upload-pack")
    refused("git", port, "/git/demo.git/info/refs?service=git-receive-pack")
    # `true` as the program that is asked for a password answers with an empty one.
    code, said = run(["git", "ls-remote", plain], env)
    check("git: ls-remote without credentials fails", code != 0 and "Authentication failed" in said, said)
    code, said = run(["git", "ls-remote", url("any", "wrong")], env)
    check("git: ls-remote with a wrong password fails", code != 0 and "Authentication failed" in said, said)
    check("git: none of these reached the origin", tap.requests() == 0, tap.requests())

    first, second = place / "first", place / "second"
    code, said = run(["git", "clone", "-q", url("any", token), str(first)], env)
    if not check("git: clone with the token as the password", code == 0 and (first / "README").is_file(), said):
        return
    # The large file makes `git` send the pack in chunks rather than with a length.
    (first / "note.txt").write_text("written by a client\n")
    (first / "large.bin").write_bytes(os.urandom(3 << 20))
    for command in (["add", "."], ["commit", "-q", "-m", "Add a note"]):
        run(["git", *command], env, first)
    code, said = run(["git", "push", "-q", url("any", "wrong"), "HEAD"], env, first)
    check("git: push with a wrong password fails", code != 0 and "Authentication failed" in said, said)
    store = place / "git-credentials"
    store.write_text(f"http://other:{token}@127.0.0.1:{port}\n")
    helper = ["-c", "credential.helper=", "-c", f"credential.helper=store --file={store}"]
    code, said = run(["git", *helper, "push", "-q", plain, "HEAD:main"], env, first)
    check("git: push from a credential store, under another user name", code == 0, said)
    check("git: the push came in chunks",
          re.search(rb"(?i)git-receive-pack HTTP/1\.1\r\n(?:[^\r]+\r\n)*transfer-encoding: chunked", tap.seen()),
          "no chunked request at the origin")
    code, said = run(["git", "clone", "-q", url("any", token), str(second)], env)
    same = code == 0 and all(filecmp.cmp(first / one, second / one, shallow=False)
                             for one in ("README", "note.txt", "large.bin"))
    heads = [run(["git", "rev-parse", "main"], env, where)[1] for where in (first, second, place / "git" / "demo.git")]
    check("git: clone again; commit and files are the same", same and len(set(heads)) == 1, f"{said} {heads}")
    code, said = run(["git", "ls-remote", url("any", jwt)], env)
    check("git: ls-remote with the session JWT as the password", code == 0 and heads[0].strip() in said, said)
    unseen("git", tap, tokens)


def write_index(root):
    """A wheel of one module, and an index of one project."""
    name = "basicdemo-1.0-py3-none-any.whl"
    files = {
        "basicdemo.py": "ANSWER = 42\n",
        "basicdemo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: basicdemo\nVersion: 1.0\n",
        "basicdemo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for path, text in files.items())
    files["basicdemo-1.0.dist-info/RECORD"] = record + "basicdemo-1.0.dist-info/RECORD,,\n"
    (root / "packages").mkdir(parents=True)
    with zipfile.ZipFile(root / "packages" / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    digest = hashlib.sha256((root / "packages" / name).read_bytes()).hexdigest()
    (root / "simple" / "basicdemo").mkdir(parents=True)
    (root / "simple" / "index.html").write_text('<!DOCTYPE html><a href="basicdemo/">basicdemo</a>')
    (root / "simple" / "basicdemo" / "index.html").write_text(
        f'<!DOCTYPE html><a href="../../packages/{name}#sha256={digest}">{name}</a>')


def try_pip(place, env, port, tap, tokens):
    token, jwt = tokens

    def install(label, index, home=None):
        target = place / f"site-{label}"
        return target, *run([sys.executable, "-m", "pip", "--isolated", "--no-input", "--disable-pip-version-check", "-vv",
                             "install", "--no-cache-dir", "--no-deps", "--retries", "0", "--timeout", "15",
                             "--target", str(target), "--index-url", index, "basicdemo"],
                            dict(env, HOME=str(home)) if home else env)

    def imports(target):
        code, said = run([sys.executable, "-c", "import basicdemo; print(basicdemo.ANSWER)"],
                         dict(env, PYTHONPATH=str(target)))
        return code == 0 and said.strip() == "42"

    def index(user, password):
        return f"http://{user}:{password}@127.0.0.1:{port}/simple/"

    plain = f"http://127.0.0.1:{port}/simple/"
    accept = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
    refused("pip", port, "/simple/basicdemo/", {"Accept": accept})
    refused("pip", port, "/packages/basicdemo-1.0-py3-none-any.whl", {"Accept-Encoding": "identity"})
    _, code, said = install("none", plain)
    check("pip: install without credentials fails", code != 0 and "401" in said, said)
    _, code, said = install("wrong", index("any", "wrong"))
    check("pip: install with a wrong password fails", code != 0 and "401" in said, said)
    check("pip: none of these reached the origin", tap.requests() == 0, tap.requests())
    target, code, said = install("token", index("any", token))
    check("pip: install with the token as the password; the module can be imported", code == 0 and imports(target), said)
    home = place / "netrc-home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine 127.0.0.1 login other password {token}\n")
    (home / ".netrc").chmod(0o600)
    target, code, said = install("netrc", plain, home)
    check("pip: install by .netrc, under another user name", code == 0 and imports(target), said)
    target, code, said = install("jwt", index("any", jwt))
    check("pip: install with the session JWT as the password", code == 0 and imports(target), said)
    unseen("pip", tap, tokens)


def write_image(root):
    """An image of one layer in the OCI layout; gives the digest of its manifest."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content, kind):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry, content = tarfile.TarInfo("data.bin"), os.urandom(3 << 20)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    layer = put(gzip.compress(packed.getvalue(), mtime=0), "layer.v1.tar+gzip")
    config = put(json.dumps({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(packed.getvalue()).hexdigest()]},
    }).encode(), "config.v1+json")
    manifest = put(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    }).encode(), "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return manifest["digest"]


def push(env, image, port, name, credentials):
    return run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *credentials,
                f"oci:{image}:v1", f"docker://127.0.0.1:{port}/{name}:v1"], env)


def pull(env, target, port, name, credentials):
    return run(["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", *credentials,
                f"docker://127.0.0.1:{port}/{name}:v1", f"oci:{target}:v1"], env)


def same_image(source, target):
    """Whether two layouts name the same manifest and hold the same blobs."""
    digests = [json.loads((one / "index.json").read_text())["manifests"][0]["digest"] for one in (source, target)]
    blobs = [sorted(os.listdir(one / "blobs" / "sha256")) for one in (source, target)]
    return digests[0] == digests[1] and blobs[0] == blobs[1] and all(
        filecmp.cmp(source / "blobs" / "sha256" / one, target / "blobs" / "sha256" / one, shallow=False)
        for one in blobs[0])


def try_registry(place, env, port, tap, tokens):
    token, jwt = tokens
    env = dict(env, REGISTRY_AUTH_FILE=str(place / "auth.json"), XDG_RUNTIME_DIR=str(place))
    image, pulled = place / "image", place / "pulled"
    digest = write_image(image)
    denied = re.compile(r"(?i)unauthorized|invalid username/password|authentication required|\b401\b")

    refused("registry", port, "/v2/")
    refused("registry", port, "/v2/team/demo/manifests/v1", {"Accept": "application/vnd.oci.image.manifest.v1+json"})
    code, said = push(env, image, port, "team/demo", ["--dest-no-creds"])
    check("registry: push without credentials is refused", code != 0 and denied.search(said), said)
    code, said = push(env, image, port, "team/demo", ["--dest-creds", "any:wrong"])
    check("registry: push with a wrong password is refused", code != 0 and denied.search(said), said)
    check("registry: none of these reached the origin", tap.requests() == 0, tap.requests())

    code, said = push(env, image, port, "team/demo", ["--dest-creds", f"any:{token}"])
    pushed = check("registry: push with the token as the password", code == 0, said)
    if not pushed:
        explain(env, place, image, port, token)
        print(f"note      in these trials the origin was asked ({tap.requests()} requests), "
              f"{'and saw' if tap.has_authorization() else 'never with'} Authorization")
        tap.forget()
    code, said = pull(env, pulled, port, "team/demo", ["--src-creds", f"other:{token}"])
    check("registry: pull under another user name; manifest and blobs are the same",
          code == 0 and same_image(image, pulled), said)
    code, said = run(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "--creds", f"any:{jwt}",
                      f"docker://127.0.0.1:{port}/team/demo:v1"], env)
    check("registry: inspect with the session JWT as the password tells the same digest",
          code == 0 and said.strip() == digest, said)
    code, said = pull(env, place / "not", port, "team/demo", ["--src-creds", "any:wrong"])
    check("registry: pull with a wrong password is refused", code != 0 and denied.search(said), said)
    unseen("registry", tap, tokens)


def explain(env, place, image, port, token):
    """Tries again with the offers of the gateway edited on the way, to tell whether they are the cause."""
    bearer, basic = rb"(?im)^www-authenticate: bearer[^\r\n]*\r\n", rb"(?im)^www-authenticate: basic[^\r\n]*\r\n"

    def without(piece):
        return re.sub(bearer, b"", piece) if piece.startswith(b"HTTP/1.1 401") else piece

    def swapped(piece):
        if not piece.startswith(b"HTTP/1.1 401"):
            return piece
        first, second = re.search(bearer, piece), re.search(basic, piece)
        if not first or not second:
            return piece
        return re.sub(bearer, lambda _: second[0] + first[0], re.sub(basic, b"", piece))

    print(f"note      the gateway offers {challenges(ask(port, '/v2/')[1])}")
    for number, (what, edit) in enumerate((("with these offers relayed as they are", None),
                                           ("with the offer of Bearer taken out on the way", without),
                                           ("with Basic put before Bearer on the way", swapped))):
        front, name, target = Relay(port, edit), f"note/{number}", place / f"note-{number}"
        code, said = push(env, image, front.port, name, ["--dest-creds", f"any:{token}"])
        if code == 0:
            code, said = pull(env, target, front.port, name, ["--src-creds", f"other:{token}"])
        good = code == 0 and same_image(image, target)
        print(f"note      {what}, push and pull {'work' if good else 'fail: ' + said.strip()[-200:]}", flush=True)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = str(pathlib.Path(sys.argv[1]).resolve())
    place = pathlib.Path(tempfile.mkdtemp(prefix="basic-clients-"))

    def stop(*_):
        raise RuntimeError("stopped from outside, or not done in time")

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.alarm(WHOLE_RUN)
    try:
        everything(program, place)
    except (RuntimeError, OSError) as error:
        check("the run came to its end", False, f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
        end_all()
        shutil.rmtree(place, ignore_errors=True)
    print(f"{failures} failed" if failures else "all passed")
    return 1 if failures else 0


def everything(program, place):
    # Clients see nothing of the caller's settings: no proxy, no credentials, no configuration.
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(place / "home"), "LANG": "C.UTF-8",
           "TMPDIR": str(place / "tmp"), "NO_PROXY": "*", "no_proxy": "*"}
    (place / "home").mkdir()
    (place / "tmp").mkdir()

    missing = {}
    if not shutil.which("git") or run(["git", "http-backend"], env)[1].startswith("git: 'http-backend'"):
        missing["git"] = "`git` with `git http-backend` is not installed"
    if run([sys.executable, "-m", "pip", "--version"], env)[0] != 0:
        missing["pip"] = "`pip` is not installed for this Python"
    registry = shutil.which("docker-registry") or shutil.which("registry")
    if not registry or not shutil.which("skopeo"):
        missing["registry"] = "`docker-registry` or `skopeo` is not installed"

    api, gateway, ops, registry_port = free_ports(4)
    targets = {"git": 1, "pip": 1, "registry": registry_port}
    if "git" not in missing:
        bare, seed = place / "git" / "demo.git", place / "seed"
        author = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        seed.mkdir()
        (seed / "README").write_text("demo\n")
        for command in (["git", "init", "-q", "-b", "main"], ["git", "add", "."],
                        ["git", *author, "commit", "-q", "-m", "Begin"],
                        ["git", "clone", "-q", "--bare", ".", str(bare)],
                        ["git", "-C", str(bare), "config", "http.receivepack", "true"]):
            code, said = run(command, env, seed)
            if code:
                raise RuntimeError(f"{' '.join(command)}: {said}")
        targets["git"] = serve(git_handler(place / "git", env))
    if "pip" not in missing:
        write_index(place / "index")
        targets["pip"] = serve(index_handler(place / "index"))
    if "registry" not in missing:
        (place / "registry").mkdir()
        (place / "registry.yml").write_text(
            f"version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {json.dumps(str(place / 'registry'))} }} }}\n"
            f'http: {{ addr: "127.0.0.1:{registry_port}" }}\n')
        start([registry, "serve", str(place / "registry.yml")], place / "registry.log", env)
        wait_until("the registry", lambda: ask(registry_port, "/v2/")[0] == 200)
    taps = {name: Relay(port) for name, port in targets.items()}

    start([program, "emulate", "--address", f"127.0.0.1:{api}"], place / "api.log", env)
    wait_until("the stand-in of the API", lambda: ask(api, "/_emulator/personas")[0] == 200)
    viewer = json.loads(ask(api, "/_emulator/personas")[2])["VIEWER"]
    tokens = (viewer["session_token"], viewer["session_jwt"])
    (place / "gateway.yaml").write_text(f"""\
listeners: [ {{ address: "127.0.0.1:{gateway}" }} ]
ops: {{ address: "127.0.0.1:{ops}" }}
stytch:
  project_id: project-test-11111111-1111-4111-8111-111111111111
  secret: {{ value: secret-test-emulator }}
  base_url: "http://127.0.0.1:{api}"
credentials: [ {{ cookie: stytch_session_jwt }}, {{ bearer: true }}, {{ basic: password }} ]
upstreams:
  git: {{ url: "http://127.0.0.1:{taps['git'].port}" }}
  index: {{ url: "http://127.0.0.1:{taps['pip'].port}" }}
  registry: {{ url: "http://127.0.0.1:{taps['registry'].port}" }}
routes:
  - {{ name: git, match: {{ path: /git/** }}, require: authenticated, upstream: git }}
  - {{ name: index, match: {{ path: /simple/** }}, require: authenticated, upstream: index }}
  - {{ name: packages, match: {{ path: /packages/** }}, require: authenticated, upstream: index }}
  - {{ name: registry, match: {{ path: /v2/** }}, require: authenticated, upstream: registry }}
""")
    running = start([program, "run", "-c", str(place / "gateway.yaml")], place / "gateway.log", env)
    try:
        wait_until("the gateway", lambda: running.poll() is None and ask(gateway, "/v2/")[0] == 401)
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {(place / 'gateway.log').read_text()[-2000:]}") from error

    for name, attempt in (("git", try_git), ("pip", try_pip), ("registry", try_registry)):
        if name in missing:
            print(f"skipped  {name}: {missing[name]}")
            continue
        # A request past the gateway shows that the relay would notice; it is forgotten afterwards.
        ask(taps[name].port, "/", {"Authorization": "Basic eDp5"})
        check(f"{name}: the relay before the origin would notice Authorization", taps[name].has_authorization())
        taps[name].forget()
        attempt(place, env, gateway, taps[name], tokens)
    check("the gateway is still running", running.poll() is None)


if __name__ == "__main__":
    sys.exit(main())
