// Points an unmodified @codebuff/sdk at your Stoa: its published build has its server's address fixed.
//
//   STOA_BASE_URL=https://stoa.example.org CODEBUFF_API_KEY=cb-pat-… node --import ./codebuff.mjs app.mjs
//
// Requests to www.codebuff.com go to STOA_BASE_URL, its telemetry goes nowhere, everything else is left alone.

const stoa = process.env.STOA_BASE_URL;
if (!stoa) throw new Error("Set STOA_BASE_URL to the address of your Stoa.");

const send = globalThis.fetch;
globalThis.fetch = (input, init) => {
  const url = new URL(input instanceof Request ? input.url : String(input));
  if (url.hostname.endsWith(".posthog.com")) return Promise.resolve(new Response('{"status":1}'));
  if (url.hostname !== "www.codebuff.com" && url.hostname !== "codebuff.com") return send(input, init);
  const there = new URL(url.pathname + url.search, stoa);
  return send(input instanceof Request ? new Request(there, input) : there, init);
};

// The SDK uses Promise.withResolvers, which Node has from version 22 on.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((done, fail) => ([resolve, reject] = [done, fail]));
  return { promise, resolve, reject };
};
