#!/usr/bin/env node
// Runs and publishes agents of a Stoa server from the terminal: `node stoa.mjs --help`. Needs Node.js 20 with npm.
//
// It also points your own programs, which use an unmodified @codebuff/sdk, at that server:
//   STOA_KEY=cb-pat-… node --import ./stoa.mjs app.mjs
//
// If your organisation has the Git repository you work in (its remote "origin"), it pays for the run. STOA_REPO names another
// repository, or none if empty; STOA_ORG, by its id or slug, an organisation that pays for every run.

import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import readline from "node:readline/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import util from "node:util";

const SERVED = { url: "", version: "" }; // filled in by the server that hands out this file
const SDK = "0.10.7";
const EXIT = { failed: 1, usage: 2, signedOut: 3, noCredits: 4, unreachable: 5, install: 6, cancelled: 130 };

const HELP = `Usage: node stoa.mjs <command> [options]

Commands
  run <agent> [prompt]   Run an agent of the store, such as acme/reviewer or acme/reviewer@1.0.0. Without a prompt, or
                         with "-", the prompt is read from standard input.
  publish <file>...      Publish the agent definitions in .json and .ts files, or in those of a folder. TypeScript is
                         read by the server, not run: values only.
  runs                   List your latest runs
  usage                  Show your credits
  login                  Sign in with your browser and store the key on this computer
  logout                 Sign out and delete the stored key

Options
  --json                 Print one JSON document
  --url URL              Address of the server (STOA_URL)${SERVED.url && `; default: ${SERVED.url}`}
  --cwd DIR              run: the folder that the agent works in; default: the current one
  --allow-edits          run: let the agent change files in that folder
  --allow-commands       run: let the agent run commands on this computer
  --publisher ID         publish: the publisher, if the file names none
  --license TEXT         publish: the licence, if the file names none, such as MIT
  --changelog TEXT       publish: what changed in this version, in Markdown
  --limit N              runs: how many, 1 to 100; default: 20
  --version, -h, --help

Environment
  STOA_URL, STOA_KEY     Address and API key. Without STOA_KEY, the key that "login" stored is used.
  STOA_ORG, STOA_REPO    The organisation that pays, by its id, its slug or its repository

Exit codes
  0 done   1 failed   2 wrong usage   3 not signed in   4 out of credits   5 server not reachable
  6 the SDK could not be installed   130 cancelled
`;

/** An error for the user: its message is printed without a stack. */
class Failure extends Error {
  constructor(exit, message, details = {}) {
    super(message);
    Object.assign(this, { exit, details });
  }
}

const COMMANDS = {
  run: {
    options: {
      cwd: { type: "string" },
      "allow-edits": { type: "boolean" },
      "allow-commands": { type: "boolean" },
    },
    action: run,
  },
  publish: {
    options: { publisher: { type: "string" }, license: { type: "string" }, changelog: { type: "string" } },
    action: publish,
  },
  runs: { options: { limit: { type: "string" } }, action: runs },
  usage: { options: {}, action: usage },
  login: { options: {}, action: login },
  logout: { options: {}, action: logout },
};
const COMMON = {
  json: { type: "boolean" },
  url: { type: "string" },
  help: { type: "boolean", short: "h" },
};

async function main(args) {
  const major = Number(process.versions.node.split(".")[0]);
  if (major < 20) throw new Failure(EXIT.usage, `Node.js 20 or later is needed; this is ${process.version}.`);
  const [name, ...rest] = args;
  if (name === undefined || ["--help", "-h", "help"].includes(name)) return process.stdout.write(HELP);
  if (name === "--version") return process.stdout.write(`stoa.mjs ${SERVED.version || "unknown"}\n`);
  if (!Object.hasOwn(COMMANDS, name)) throw misused(`There is no command ${JSON.stringify(name)}.`);
  const { options, action } = COMMANDS[name];
  let parsed;
  try {
    parsed = util.parseArgs({ args: rest, options: { ...COMMON, ...options }, allowPositionals: true });
  } catch (error) {
    throw misused(error.message);
  }
  if (parsed.values.help) return process.stdout.write(HELP);
  const server = address(parsed.values.url ?? process.env.STOA_URL ?? SERVED.url);
  return action({ ...parsed.values, server }, parsed.positionals);
}

// -- commands -------------------------------------------------------------------------------------------------------

async function run(options, [agent, ...words]) {
  if (!/^[a-z0-9-]+\/[\w.-]+(@\d+\.\d+\.\d+)?$/i.test(agent ?? ""))
    throw misused("Name an agent of the store: publisher/agent or publisher/agent@1.0.0.");
  if (words.length > 1) throw misused("Put the prompt in quotes: it must be one argument.");
  const cwd = path.resolve(options.cwd ?? ".");
  if (!fs.statSync(cwd, { throwIfNoEntry: false })?.isDirectory()) throw misused(`${cwd} is not a folder.`);
  const prompt = words.length && words[0] !== "-" ? words[0] : await standardInput();
  if (!prompt.trim()) throw misused("The prompt is empty.");
  const key = await keyFor(options.server);
  await ask(options.server, "/api/v1/me", { key }); // says what is wrong with server or key better than the SDK
  const { CodebuffClient } = await sdk(options.server);

  const abort = cancelOnSignal();
  const watched = watch(options);
  redirect(options.server, watched.observe);
  for (const level of ["log", "info", "warn", "error"]) console[level] = () => {}; // the SDK's own, with whole requests
  const printed = { text: "" };
  const client = new CodebuffClient({ apiKey: key, cwd, overrideTools: refusedTools(options) });
  const request = {
    agent,
    prompt,
    signal: abort.signal,
    handleEvent: (event) => showEvent(event, options),
    handleStreamChunk: (chunk) => showChunk(chunk, printed, options),
  };
  const lost = (error) => ({ output: { type: "error", message: error.message } });
  const { output } = await client.run(request).catch(lost);
  const result = await outcome(options.server, key, watched, output, abort.signal.aborted);
  if (options.json) return finishWith(result.exit, { ...result, exit: undefined, text: answerOf(output, printed) });
  if (!printed.text.trim()) process.stdout.write(plain(answerOf(output, printed)));
  process.stdout.write("\n");
  if (result.error) note(withRequest(result.error, result.requestId));
  if (result.runId) note(`Run ${result.url} · ${result.status} · ${costOf(result)}`);
  return finishWith(result.exit);
}

/** What became of a run: its status and cost as the server knows them, and the exit code. */
async function outcome(server, key, watched, output, aborted) {
  const result = { runId: watched.runId, url: null, status: "failed", credits: 0, costUsd: "0", error: null, requestId: null, exit: 0 };
  if (watched.runId) {
    const cost = await ask(server, `/api/v1/runs/${encodeURIComponent(watched.runId)}/cost`, { key }).catch(() => ({}));
    const { status = "unknown", credits = null, costUsd = null, url = server } = cost;
    Object.assign(result, { status, credits, costUsd, url });
  }
  if (aborted) return { ...result, status: "cancelled", error: "Cancelled.", exit: EXIT.cancelled };
  if (output.type !== "error") return result;
  const { error, requestId, exit } = watched.failure ?? { error: output.message.split("\n")[0], exit: EXIT.failed };
  return { ...result, error, requestId: requestId ?? null, exit };
}

function answerOf(output, printed) {
  if (output.type === "structuredOutput") return `${JSON.stringify(output.value, null, 2)}\n`;
  return printed.text;
}

async function publish(options, files) {
  if (!files.length) throw misused("Name the JSON and TypeScript files to publish, or a folder with them.");
  const { publisher, license, changelog } = options;
  const found = [];
  for (const file of files.flatMap(filesIn)) found.push(...(await definitionsIn(file, options.server)));
  const data = found.map((each) => ({ publisher, license, ...each, ...(changelog && { changelog }) }));
  if (!data.length) throw new Failure(EXIT.failed, "There are no agent definitions in these files.");
  const key = await keyFor(options.server);
  const answer = await ask(options.server, "/api/agents/publish", { key, body: { data } });
  const published = answer.agents.map(({ id, version }) => ({
    id: `${answer.publisherId}/${id}@${version}`,
    url: `${options.server}/publishers/${answer.publisherId}/agents/${id}/${version}`,
  }));
  show(options, { published }, published.map((each) => `Published ${each.id}  ${each.url}`));
}

/** The file itself, or the JSON files of a folder and its modules with a default export: others have types only. */
function filesIn(place) {
  if (!fs.statSync(place, { throwIfNoEntry: false })?.isDirectory()) return [place];
  const names = fs.readdirSync(place).filter((name) => /\.(json|m?ts)$/.test(name) && !name.endsWith(".d.ts"));
  const paths = names.sort().map((name) => path.join(place, name));
  return paths.filter((each) => each.endsWith(".json") || /^export\s+default\b/m.test(contentOf(each)));
}

async function definitionsIn(file, server) {
  const text = contentOf(file);
  let value;
  try {
    value = /\.[cm]?[jt]s$/.test(file) ? await moduleValue(text, server) : JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) throw new Failure(EXIT.failed, `${file} is not JSON: ${error.message}`);
    if (error.details?.status === 400) throw new Failure(EXIT.failed, `${file}: ${error.message}`, error.details);
    throw error;
  }
  const list = Array.isArray(value) ? value : [value];
  if (list.every((each) => each && typeof each === "object" && !Array.isArray(each))) return list;
  throw new Failure(EXIT.failed, `${file} must hold an agent definition or a list of them.`);
}

/** The default export of a TypeScript module, which the server reads without running it. */
async function moduleValue(source, server) {
  return (await ask(server, "/api/agents/definitions", { body: { source } })).definition;
}

function contentOf(file) {
  try {
    return fs.readFileSync(file === "-" ? 0 : file, "utf8").replace(/^\uFEFF/, "");
  } catch (error) {
    throw new Failure(EXIT.failed, `${file} cannot be read: ${error.code}`);
  }
}

async function runs(options, extra) {
  none(extra);
  const limit = options.limit ?? "20";
  if (!/^([1-9]\d?|100)$/.test(limit)) throw misused("--limit must be 1 to 100.");
  const key = await keyFor(options.server);
  const answer = await ask(options.server, `/api/v1/runs?limit=${limit}`, { key });
  const lines = answer.runs.map((each) =>
    [each.startedAt.slice(0, 16).replace("T", " "), each.status.padEnd(9), `${each.credits}`.padStart(7), each.agentId, each.url].join("  "),
  );
  show(options, answer, lines.length ? ["Started (UTC)     Status     Credits  Agent and run", ...lines] : ["No runs yet."]);
}

async function usage(options, extra) {
  none(extra);
  const key = await keyFor(options.server);
  const answer = await ask(options.server, "/api/v1/usage", { key, body: { fingerprintId: "stoa.mjs" } });
  const reset = answer.next_quota_reset ? `, renewed ${answer.next_quota_reset.slice(0, 10)}` : "";
  show(options, answer, [
    `${count(answer.remainingBalance, "credit")} available, ${answer.usage.toLocaleString("en")} used in this cycle${reset}`,
    `${options.server}/usage`,
  ]);
}

async function login(options, extra) {
  none(extra);
  const { email } = await signIn(options.server);
  show(options, { url: options.server, email }, [`Signed in to ${options.server} as ${email}.`]);
}

async function logout(options, extra) {
  none(extra);
  const all = stored();
  const mine = all[options.server];
  if (mine) {
    const { id: userId, fingerprintId, fingerprintHash } = mine;
    await ask(options.server, "/api/auth/cli/logout", { key: mine.authToken, body: { userId, fingerprintId, fingerprintHash } });
    delete all[options.server];
    store(all);
  }
  const said = mine ? `Signed out of ${options.server}.` : `No key of ${options.server} is stored here.`;
  const warning = process.env.STOA_KEY ? ["STOA_KEY is still set: revoke that key on the page “API keys”."] : [];
  show(options, { url: options.server, signedOut: Boolean(mine) }, [said, ...warning]);
}

// -- sign-in --------------------------------------------------------------------------------------------------------

async function keyFor(server) {
  const key = process.env.STOA_KEY || stored()[server]?.authToken;
  if (key) {
    if (/^[!-~]+$/.test(key)) return key;
    throw new Failure(EXIT.signedOut, "STOA_KEY is not an API key.");
  }
  if (process.stdin.isTTY && process.stderr.isTTY) return (await signIn(server)).authToken;
  throw new Failure(EXIT.signedOut, `Not signed in to ${server}. Run "node stoa.mjs login", or set STOA_KEY.`);
}

/** Device login: the user approves in a browser, while this polls. Stores and returns the user with the key. */
async function signIn(server) {
  const fingerprintId = `stoa-${os.hostname().replace(/[^\w-]/g, "").slice(0, 40)}-${randomBytes(6).toString("hex")}`;
  const code = await ask(server, "/api/auth/cli/code", { body: { fingerprintId } });
  const shown = code.fingerprintHash.slice(-8).replace(/^(.{4})/, "$1-");
  note(`Open this page in a browser and approve the code ${shown}:\n\n  ${code.loginUrl}\n`);
  const query = new URLSearchParams({ fingerprintId, fingerprintHash: code.fingerprintHash, expiresAt: code.expiresAt });
  while (Date.now() < code.expiresAt) {
    await new Promise((resume) => setTimeout(resume, 2000));
    try {
      const { user } = await ask(server, `/api/auth/cli/status?${query}`);
      store({ ...stored(), [server]: user });
      return user;
    } catch (error) {
      const { status } = error.details ?? {};
      if (status === 403) throw new Failure(EXIT.signedOut, error.message, error.details);
      if (status !== 401 && status !== 429 && error.exit !== EXIT.unreachable) throw error;
    }
  }
  throw new Failure(EXIT.signedOut, "The code has expired. Run the command again for a new one.");
}

function storePath() {
  return path.join(process.env.XDG_CONFIG_HOME || path.join(os.homedir(), ".config"), "stoa", "credentials.json");
}

/** Stored users with their keys, by server. */
function stored() {
  let text;
  try {
    text = fs.readFileSync(storePath(), "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return {};
    throw new Failure(EXIT.signedOut, `${storePath()} cannot be read: ${error.code}`);
  }
  try {
    return { ...JSON.parse(text) };
  } catch {
    throw new Failure(EXIT.signedOut, `${storePath()} is not JSON. Delete it and sign in again.`);
  }
}

function store(all) {
  const place = storePath();
  const temporary = `${place}.${randomBytes(4).toString("hex")}`;
  fs.mkdirSync(path.dirname(place), { recursive: true, mode: 0o700 });
  fs.writeFileSync(temporary, `${JSON.stringify(all, null, 2)}\n`, { mode: 0o600, flag: "wx" });
  fs.renameSync(temporary, place);
}

// -- server ---------------------------------------------------------------------------------------------------------

function address(text) {
  if (!text) throw misused("Set STOA_URL to the address of your Stoa.");
  const url = URL.canParse(text) ? new URL(text) : null;
  if (!url || !["http:", "https:"].includes(url.protocol) || url.username || url.password)
    throw misused(`${JSON.stringify(text)} is not the address of a server, such as https://stoa.example.org.`);
  return url.origin;
}

/** A request for JSON. Throws Failure with the server's own message. */
async function ask(server, where, { key, body } = {}) {
  const headers = { "user-agent": agentString(), ...(key && { authorization: `Bearer ${key}` }) };
  if (body) headers["content-type"] = "application/json";
  let response, text;
  try {
    response = await send(new URL(where, server), { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    text = await response.text();
  } catch (error) {
    throw new Failure(EXIT.unreachable, `${server} cannot be reached: ${error.cause?.code ?? error.cause?.message ?? error.message}`);
  }
  if (!response.ok) {
    const { error, exit, ...details } = refusal(response, text);
    throw new Failure(exit, error, details);
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Failure(EXIT.failed, `${server} did not answer with JSON. Is this the address of a Stoa?`);
  }
}

/** The message of a failed response, whatever its format, with the id that the operator can look up. */
function refusal(response, text) {
  let body = {};
  try {
    body = JSON.parse(text) ?? {};
  } catch {} // eslint-disable-line no-empty
  const nested = body.error && typeof body.error === "object" ? body.error : {};
  const said = [nested.message ?? body.error ?? body.message, body.details, body.hint].filter((each) => typeof each === "string");
  const error = said.join("\n") || `The server answered ${response.status} ${response.statusText}`;
  const exit = { 401: EXIT.signedOut, 402: EXIT.noCredits }[response.status] ?? EXIT.failed;
  return { error, exit, status: response.status, requestId: response.headers.get("x-request-id") };
}

function agentString() {
  return `stoa.mjs/${SERVED.version || "0"} (${os.platform()} ${os.arch()}; node ${process.versions.node})`;
}

// -- SDK ------------------------------------------------------------------------------------------------------------

/** The unmodified SDK, from the user's npm registry, with exactly the packages that the server's lock file pins. */
async function sdk(server) {
  const cache = process.env.XDG_CACHE_HOME || (process.platform === "win32" && process.env.LOCALAPPDATA) || path.join(os.homedir(), ".cache");
  const folder = path.join(cache, "stoa", `codebuff-sdk-${SDK}`);
  if (!fs.existsSync(folder)) {
    const lock = await ask(server, `/static/clients/codebuff-sdk-${SDK}.json`).catch((error) => {
      if (error.details?.status !== 404) throw error;
      throw new Failure(EXIT.install, `This stoa.mjs is too old. Get the new one: curl -fsSO ${server}/clients/stoa.mjs`);
    });
    note(`Installing @codebuff/sdk ${SDK} in ${folder}, once (110 MB) …`);
    const temporary = `${folder}.${randomBytes(4).toString("hex")}`;
    fs.mkdirSync(temporary, { recursive: true, mode: 0o700 });
    try {
      const { name, dependencies } = lock.packages[""];
      fs.writeFileSync(path.join(temporary, "package.json"), JSON.stringify({ name, private: true, dependencies }));
      fs.writeFileSync(path.join(temporary, "package-lock.json"), JSON.stringify(lock));
      await npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], temporary);
      if (!fs.existsSync(folder)) fs.renameSync(temporary, folder);
    } finally {
      fs.rmSync(temporary, { recursive: true, force: true });
    }
  }
  return import(pathToFileURL(path.join(folder, "node_modules", "@codebuff", "sdk", "dist", "index.mjs")));
}

function npm(args, cwd) {
  return new Promise((resolve, reject) => {
    const windows = process.platform === "win32"; // npm is a script there, which only a shell starts
    const child = spawn(windows ? "npm.cmd" : "npm", args, { cwd, shell: windows, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (piece) => (said += piece));
    const fail = (why) => reject(new Failure(EXIT.install, `npm could not install @codebuff/sdk ${SDK}: ${why}`));
    child.on("error", (error) => fail(error.code === "ENOENT" ? "npm is not installed" : error.message));
    child.on("close", (code) => (code === 0 ? resolve() : fail(said.trim().split("\n").slice(0, 5).join("\n") || `exit code ${code}`)));
  });
}

/** Tools that change this computer, unless the user allows them: an agent of the store was written by somebody else. */
function refusedTools(options) {
  const refuse = (what, option) => async () => {
    note(`The agent may not ${what}; ${option} lets it.`);
    return [{ type: "json", value: { errorMessage: `The user does not allow you to ${what}.` } }];
  };
  return {
    ...(!options["allow-edits"] && { write_file: refuse("change files", "--allow-edits") }),
    ...(!options["allow-commands"] && { run_terminal_command: refuse("run commands", "--allow-commands") }),
  };
}

/** Follows the SDK's requests: notes the run and the last refusal, and rejects agents that bring programs of their own. */
function watch(options) {
  const watched = { runId: null, failure: null };
  watched.observe = async (url, response) => {
    if (!response.ok) {
      watched.failure = refusal(response, await response.clone().text());
    } else if (url.pathname === "/api/v1/agent-runs") {
      watched.runId ??= (await response.clone().json()).runId ?? null;
    } else if (url.pathname.startsWith("/api/v1/agents/") && !options["allow-commands"]) {
      const servers = Object.values((await response.clone().json()).data?.mcpServers ?? {});
      if (servers.some((each) => each?.command)) {
        const error = "This agent starts programs on this computer (MCP servers); --allow-commands lets it.";
        watched.failure = { error, exit: EXIT.failed };
        return new Response(JSON.stringify({ error }), { status: 403 });
      }
    }
    return response;
  };
  return watched;
}

/** A controller that Ctrl-C aborts, so that the server learns that the run is cancelled. A second Ctrl-C exits at once. */
function cancelOnSignal() {
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"])
    process.on(signal, () => {
      if (abort.signal.aborted) process.exit(EXIT.cancelled);
      note("Cancelling …");
      abort.abort();
      setTimeout(() => process.exit(EXIT.cancelled), 10_000).unref();
    });
  process.stdout.on("error", () => abort.abort()); // the reader of a pipe has gone
  return abort;
}

// -- output ---------------------------------------------------------------------------------------------------------

function showChunk(chunk, printed, options) {
  if (typeof chunk !== "string") return;
  printed.text += chunk;
  if (!options.json) process.stdout.write(plain(chunk));
}

function showEvent(event, options) {
  if (options.json) return;
  if (event.type === "tool_call") note(`  · ${event.toolName} ${JSON.stringify(event.input).slice(0, 120)}`);
  if (event.type === "subagent_start") note(`  · starts ${event.displayName}`);
}

/** Text of models and servers without control characters, which could control the terminal. */
function plain(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

function note(text) {
  process.stderr.write(`${plain(text)}\n`);
}

function show(options, value, lines) {
  process.stdout.write(options.json ? `${JSON.stringify(value, null, 2)}\n` : plain(`${lines.join("\n")}\n`));
}

/** Exits when everything is written: the SDK leaves timers that would keep the process alive. */
function finishWith(exit, value) {
  process.stdout.write(value ? `${JSON.stringify(value, null, 2)}\n` : "", () => process.exit(exit));
}

function costOf({ credits, costUsd }) {
  return credits === null ? "cost unknown" : `${count(credits, "credit")} ($${costUsd})`;
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** An error with the id under which the operator finds it in the logs. */
function withRequest(message, requestId) {
  return requestId ? `${message} (request ${requestId})` : message;
}

function misused(message) {
  return new Failure(EXIT.usage, `${message}\nnode stoa.mjs --help explains the commands.`);
}

function none(extra) {
  if (extra.length) throw misused(`Unexpected argument ${JSON.stringify(extra[0])}.`);
}

async function standardInput() {
  if (process.stdin.isTTY) {
    const lines = readline.createInterface({ input: process.stdin, output: process.stderr });
    return lines.question("Prompt: ").finally(() => lines.close());
  }
  let text = "";
  for await (const piece of process.stdin.setEncoding("utf8")) text += piece;
  return text;
}

// -- pointing the SDK at this server --------------------------------------------------------------------------------

const send = globalThis.fetch;

/**
 * Sends the SDK's requests to `server`, because its published build has another address fixed, and its telemetry nowhere. With
 * `observe`, which sees every response of the server, also no request to a vendor with a subscription that the SDK finds here.
 */
function redirect(server, observe) {
  const payer = Object.entries({
    "x-stoa-org": process.env.STOA_ORG,
    "x-stoa-repo": process.env.STOA_REPO ?? origin(),
  }).filter(([, value]) => value);
  globalThis.fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : String(input));
    if (url.hostname.endsWith(".posthog.com")) return new Response('{"status":1}');
    if (observe && url.hostname.endsWith(".anthropic.com")) return new Response("{}", { status: 401 });
    if (url.hostname !== "www.codebuff.com" && url.hostname !== "codebuff.com") return send(input, init);
    const there = new URL(url.pathname + url.search, server);
    const request = input instanceof Request ? new Request(there, input) : there;
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
    for (const [name, value] of payer) headers.set(name, value);
    const response = await send(request, { ...init, headers });
    return observe ? observe(there, response) : response;
  };
}

/** The remote of the current folder, if an organisation can have it, without a name or token in it. */
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

// The SDK uses Promise.withResolvers, which Node has from version 22 on.
Promise.withResolvers ??= () => {
  let resolve, reject;
  const promise = new Promise((done, fail) => ([resolve, reject] = [done, fail]));
  return { promise, resolve, reject };
};

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2);
  main(args).catch((error) => {
    const known = error instanceof Failure;
    const { requestId = null } = error.details ?? {};
    note(known ? withRequest(error.message, requestId) : `stoa.mjs failed: ${error.stack}`);
    const report = { error: error.message, requestId };
    if (args.includes("--json")) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    process.exitCode = known ? error.exit : EXIT.failed;
  });
} else {
  redirect(address(process.env.STOA_URL ?? SERVED.url));
}
