// An application that verifies the signed assertion with `jose`, as docs/identity.md says.
//
// Prints its port, reads the address of the keys from its standard input, and answers with what it verified or why not.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const packages = createRequire(process.env.PORTCULLIS_NODE_PACKAGES + "/");
const { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } = await import(packages.resolve("jose"));
let keys;

const server = createServer(async (request, response) => {
  try {
    const token = request.headers["x-auth-assertion"];
    const { payload } = await jwtVerify(token, keys, {
      algorithms: ["EdDSA", "ES256"], issuer: "portcullis", audience: "app",
    });
    const { kid, alg } = decodeProtectedHeader(token);
    response.end(JSON.stringify({ kid, alg, ...payload }));
  } catch (error) {
    response.statusCode = 418;
    response.end(String(error));
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
createInterface({ input: process.stdin }).on("line", (address) => {
  // Keys that change every few seconds are asked for more often than the library would otherwise ask.
  keys = createRemoteJWKSet(new URL(address), { cooldownDuration: 100 });
  console.log("ready");
}).on("close", () => process.exit());
