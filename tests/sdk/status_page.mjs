// Chromium in front of the status page: what axe says of it, whether it reads without a script, and whether it stays alive.
//
// Takes the page's address and the gateway's, prints what passed, and exits with 1 on the first surprise. With
// PORTCULLIS_SCREENSHOTS it leaves pictures in that folder.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const packages = createRequire(process.env.PORTCULLIS_NODE_PACKAGES + "/");
const { default: puppeteer } = await import(packages.resolve("puppeteer-core"));
const axe = readFileSync(packages.resolve("axe-core"), "utf8");
const [address, gateway] = process.argv.slice(2);
const pictures = process.env.PORTCULLIS_SCREENSHOTS;

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});

function expect(holds, what) {
  if (!holds) {
    console.log(`failed: ${what}`);
    process.exit(1);
  }
}

async function open(url, { scheme = "light", script = true, width = 1160 } = {}) {
  const page = await browser.newPage();
  const complaints = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.setJavaScriptEnabled(script);
  await page.goto(url, { waitUntil: "networkidle0" });
  expect(complaints.length === 0, `the browser complains: ${complaints.join("; ")}`);
  return page;
}

async function violations(page) {
  // Through the debugger, which the page's own policy does not hold back.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  return violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

for (const scheme of ["light", "dark"]) {
  const page = await open(address, { scheme });
  const found = await violations(page);
  expect(found.length === 0, `axe, ${scheme}: ${found.join("; ")}`);
  if (pictures) await page.screenshot({ path: `${pictures}/status-${scheme}.png`, fullPage: true });
  console.log(`passed: axe finds nothing, ${scheme}`);
}

const page = await open(address);
const refusal = await page.evaluate(() => document.querySelector("#refusals ~ .scroll a").href);
const explained = await open(refusal);
const found = await violations(explained);
expect(found.length === 0, `axe, a refusal: ${found.join("; ")}`);
expect((await explained.content()).includes("What the caller can do"), "a refusal is not explained");
console.log("passed: a refusal is explained, and axe finds nothing there");

const still = await open(address, { script: false });
const text = await still.evaluate(() => document.body.innerText).catch(() => null) ?? (await still.content());
for (const word of ["Healthy", "Recent refusals", "role_missing"]) {
  expect(text.includes(word), `without a script there is no \`${word}\``);
}
console.log("passed: it reads without a script");

const narrow = await open(address, { width: 380 });
const wide = await narrow.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
expect(!wide, "on a narrow screen the page itself scrolls sideways");
if (pictures) await narrow.screenshot({ path: `${pictures}/status-narrow.png`, fullPage: true });
console.log("passed: it fits a narrow screen");

const before = await page.evaluate(() => document.querySelector("time").dateTime);
await fetch(gateway + "nobody");
await page.bringToFront();
await page.waitForFunction((before) => document.querySelector("time").dateTime !== before, { timeout: 15000 }, before);
const live = await page.evaluate(() => document.getElementById("main").innerText);
expect(live.includes("credential_missing"), "what happened since is not shown");
console.log("passed: it is brought up to date");
await browser.close();
