// Chromium in front of the gateway: signing in and coming back, a step-up, refusals as pages, another origin's `fetch`.
//
// Prints the port of its sign-in page, reads one line of JSON about the gateway from its standard input, prints what passed,
// and exits with 1 on the first surprise. Every host below `.test` is this machine, to this browser alone.

import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const packages = createRequire(process.env.PORTCULLIS_NODE_PACKAGES + "/");
const { default: puppeteer } = await import(packages.resolve("puppeteer-core"));

let gateway;
let persona = "VIEWER";
let signInWorks = true;

// Where members sign in, and where a single-page application is served: both belong to the same site as the gateway.
const site = createServer((request, response) => {
  const url = new URL(request.url, "http://login.example.test");
  const next = url.searchParams.get("next");
  response.setHeader("content-type", "text/html");
  if (url.pathname === "/spa") {
    response.end("<!doctype html><title>spa</title>");
  } else if (url.pathname === "/signed-in") {
    if (signInWorks) {
      response.setHeader("set-cookie", `stytch_session_jwt=${gateway.jwts[persona]}; Domain=example.test; Path=/; HttpOnly; SameSite=Lax`);
    }
    response.writeHead(303, { location: next }).end();
  } else {
    response.end(`<!doctype html><title>${url.pathname}</title><a id="go" href="/signed-in?next=${encodeURIComponent(next)}">go</a>`);
  }
});
await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
console.log(site.address().port);
gateway = JSON.parse(await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", resolve)));

const app = `http://app.example.test:${gateway.port}`;
const login = `http://login.example.test:${site.address().port}`;
const browser = await puppeteer.launch({
  executablePath: execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim(),
  args: ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1", "--disable-features=HttpsUpgrades"],
});

function check(what, holds, seen) {
  if (!holds) {
    throw new Error(`${what}: ${JSON.stringify(seen)}`);
  }
}

async function scenario(name, run) {
  const context = await browser.createBrowserContext();
  try {
    await run(context);
    console.log(`passed: ${name}`);
  } catch (error) {
    console.log(`FAILED: ${name}: ${error}`);
    await browser.close();
    process.exit(1);
  } finally {
    await context.close().catch(() => {});
  }
}

const echoed = async (page) => JSON.parse(await page.evaluate(() => document.body.innerText));
const follow = async (page, link = "#go") => {
  await page.bringToFront();
  await Promise.all([page.waitForNavigation(), page.click(link)]);
};
const cookie = (context, name) =>
  context.setCookie({ name: "stytch_session_jwt", value: gateway.jwts[name], domain: ".example.test", path: "/", httpOnly: true });

await scenario("signing in leads back to the very page", async (context) => {
  persona = "VIEWER";
  const page = await context.newPage();
  const deep = `${app}/reports/7?tab=sum%20up&sort=a%26b`;
  await page.goto(deep);
  const at = new URL(page.url());
  check("it was sent to sign in", at.origin === login && at.pathname === "/start", page.url());
  check("with the way back", at.searchParams.get("next") === deep, at.searchParams.get("next"));
  await follow(page);
  check("it is back", page.url() === deep, page.url());
  const seen = await echoed(page);
  check("as the member", seen.headers["x-auth-kind"] === "member", seen);
});

await scenario("several tabs each come back to their own page", async (context) => {
  persona = "VIEWER";
  const pages = [];
  for (const path of ["/one", "/two?x=1", "/three"]) {
    const page = await context.newPage();
    await page.goto(app + path);
    pages.push([path, page]);
  }
  for (const [path, page] of pages) {
    check("all were sent to sign in", page.url().startsWith(login), page.url());
    await follow(page);
    check("each is back", page.url() === app + path, page.url());
  }
});

await scenario("a stale factor is proven again", async (context) => {
  await cookie(context, "STALE_FACTOR");
  const page = await context.newPage();
  await page.goto(`${app}/admin/users`);
  const at = new URL(page.url());
  check("it was sent to prove it", at.pathname === "/prove", page.url());
  check("what is asked goes along", at.searchParams.get("acr_values") === "urn:portcullis:factor:totp", page.url());
  check("and how fresh", at.searchParams.get("max_age") === "900", page.url());
  persona = "ADMIN";
  await follow(page);
  check("it is back", page.url() === `${app}/admin/users`, page.url());
  check("and in", (await echoed(page)).headers["x-auth-factors"].includes("totp"), page.url());
});

await scenario("who may not come in reads why, in light and in dark, and nothing else is loaded", async (context) => {
  await cookie(context, "VIEWER");
  const page = await context.newPage();
  const loaded = [];
  page.on("request", (request) => loaded.push(request.url()));
  const response = await page.goto(`${app}/admin/users`);
  check("the status", response.status() === 403, response.status());
  const heading = await page.$eval("h1", (element) => element.textContent);
  check("the heading", heading === "You do not have access to this", heading);
  const text = await page.evaluate(() => document.body.innerText);
  check("the request id", text.includes(response.headers()["x-request-id"]), text);
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  const light = await paper();
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  const dark = await paper();
  check("two schemes", light !== dark, [light, dark]);
  const others = loaded.filter((url) => !url.endsWith("/admin/users") && !url.endsWith("/favicon.ico"));
  check("nothing loaded", others.length === 0, others);
  if (gateway.screenshots) {
    await page.screenshot({ path: `${gateway.screenshots}/dark.png` });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
    await page.screenshot({ path: `${gateway.screenshots}/light.png` });
  }
});

await scenario("a sign-in that leads nowhere ends with a page", async (context) => {
  signInWorks = false;
  const page = await context.newPage();
  await page.goto(`${app}/reports`);
  let turns = 0;
  while (page.url().startsWith(login) && turns < 20) {
    await follow(page);
    turns += 1;
  }
  signInWorks = true;
  const text = await page.evaluate(() => document.body.innerText);
  check("it ended", page.url() === `${app}/reports` && text.includes("several times within a minute"), [turns, text]);
  persona = "VIEWER";
  await follow(page, "a.button");
  await follow(page);
  check("and trying again works once it is mended", (await echoed(page)).headers["x-auth-kind"] === "member", page.url());
});

await scenario("the fetch of a single-page application reads its refusals and is never sent elsewhere", async (context) => {
  const page = await context.newPage();
  const call = (url, options) =>
    page.evaluate(
      async (url, options) => {
        try {
          const response = await fetch(url, { credentials: "include", ...options });
          const challenge = response.headers.get("www-authenticate");
          return { status: response.status, redirected: response.redirected, challenge, body: await response.json() };
        } catch (error) {
          return { error: String(error) };
        }
      },
      url,
      options,
    );
  const json = { method: "PUT", headers: { "content-type": "application/json" }, body: "{}" };
  await page.goto(`http://spa.example.test:${site.address().port}/spa`);
  for (const options of [{}, json]) {
    const refused = await call(`${app}/api`, options);
    check("the reason is read", refused.status === 401 && refused.body.reason === "credential_missing", refused);
    check("and the challenge", refused.challenge.startsWith("Bearer") && !refused.redirected, refused);
  }
  await cookie(context, "VIEWER");
  const allowed = await call(`${app}/api`, json);
  check("it works once signed in", allowed.status === 200 && allowed.body.method === "PUT", allowed);
  const forbidden = await call(`${app}/admin/users`, json);
  check("a 403 is read too", forbidden.status === 403 && forbidden.body.reason === "role_missing", forbidden);
  await page.goto(`http://evil.other.test:${site.address().port}/spa`);
  for (const options of [{}, json]) {
    const stranger = await call(`${app}/api`, options);
    check("nobody else reads anything", stranger.error?.startsWith("TypeError"), stranger);
  }
});

await scenario("a directory that is down is a page", async (context) => {
  const fault = { operation: "list", status: 503, error_type: "internal_server_error" };
  await fetch(`${gateway.emulator}/_emulator/faults`, { method: "POST", body: JSON.stringify(fault) });
  await cookie(context, "OTHER_ORG");
  const page = await context.newPage();
  const response = await page.goto(`${app}/reports`);
  check("the status", response.status() === 503, response.status());
  const text = await page.evaluate(() => document.body.innerText);
  check("the words", text.includes("This is not your fault"), text);
});

await browser.close();
process.exit();
