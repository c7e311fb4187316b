"""An application that verifies the signed assertion with PyJWT, as docs/identity.md says.

Prints its port, reads the address of the keys from its standard input, and answers with what it verified or why not.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

keys = None


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            token = self.headers["x-auth-assertion"]
            claims = jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token).key,
                algorithms=["EdDSA", "ES256"],
                issuer="portcullis",
                audience="app",
            )
            header = jwt.get_unverified_header(token)
            status, body = 200, json.dumps({"kid": header["kid"], "alg": header["alg"], **claims})
        except Exception as error:
            status, body = 418, repr(error)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
for address in sys.stdin:
    # Keys that change every few seconds are asked for more often than the library would otherwise ask.
    keys = jwt.PyJWKClient(address.strip(), cooldown_duration=0.1)
    print("ready", flush=True)
