// Points an unmodified @codebuff/sdk at your Stoa: its published build has its server's address fixed.
//
//   STOA_BASE_URL=https://stoa.example.org CODEBUFF_API_KEY=cb-pat-… node --import ./codebuff.mjs app.mjs
//
// Requests to www.codebuff.com go to STOA_BASE_URL, its telemetry goes nowhere, everything else is left alone.
//
// If your organisation has the Git repository you work in (its remote "origin"), it pays for the run. STOA_REPO names another
// repository, or none if empty; STOA_ORG, by its id or slug, an organisation that pays for every run.

import { execFileSync } from "node:child_process";

const stoa = process.env.STOA_BASE_URL;
if (!stoa) throw new Error("Set STOA_BASE_URL to the address of your Stoa.");

const payer = Object.entries({
  "x-stoa-org": process.env.STOA_ORG,
  "x-stoa-repo": process.env.STOA_REPO ?? origin(),
}).filter(([, value]) => value);

/** The remote of the current directory, if an organisation can have it, without a name or token in it. */
function origin() {
  try {
    const options = { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], timeout: 5000 };
    const url = execFileSync("git", ["remote", "get-url", "origin"], options).trim();
    const hosted = /^[!-~]*\b(github\.com|gitlab\.com|bitbucket\.org)[:/][!-~]+$/i.test(url);
    return hosted ? url.replace(/^(https?:\/\/)[^/]*@/i, "$1") : "";
  } catch {
    return ""; // no Git, no repository, or no such remote
  }
}

const send = globalThis.fetch;
globalThis.fetch = (input, init) => {
  const url = new URL(input instanceof Request ? input.url : String(input));
  if (url.hostname.endsWith(".posthog.com")) return Promise.resolve(new Response('{"status":1}'));
  if (url.hostname !== "www.codebuff.com" && url.hostname !== "codebuff.com") return send(input, init);
  const there = new URL(url.pathname + url.search, stoa);
  const request = input instanceof Request ? new Request(there, input) : there;
  const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
  for (const [name, value] of payer) headers.set(name, value);
  return send(request, { ...init, headers });
};

// The SDK uses Promise.withResolvers, which Node has from version 22 on.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((done, fail) => ([resolve, reject] = [done, fail]));
  return { promise, resolve, reject };
};
