// Preload for an unmodified @codebuff/sdk, whose server address is fixed at build time: sends what it would send
// there to STOA_BASE_URL instead, swallows its telemetry, and refuses every other host.
// Usage: STOA_BASE_URL=http://localhost:8000 node --import ./redirect.mjs your-app.mjs

const target = new URL(process.env.STOA_BASE_URL ?? 'http://localhost:8000')
const loopback = new Set(['localhost', '127.0.0.1', '[::1]'])
const send = globalThis.fetch

globalThis.fetch = async (input, init) => {
  const url = new URL(input instanceof Request ? input.url : String(input))
  if (url.hostname === 'www.codebuff.com' || url.hostname === 'codebuff.com') {
    const moved = new URL(url.pathname + url.search, target)
    return send(input instanceof Request ? new Request(moved, input) : moved, init)
  }
  if (url.hostname.endsWith('posthog.com')) return new Response('{"status":1}', { status: 200 })
  if (url.host === target.host || loopback.has(url.hostname)) return send(input, init)
  throw new Error(`refused to leave this machine: ${url.origin}`)
}

// The SDK uses Promise.withResolvers, which Node 20 does not have yet.
Promise.withResolvers ??= function withResolvers() {
  let resolve, reject
  const promise = new Promise((done, fail) => ([resolve, reject] = [done, fail]))
  return { promise, resolve, reject }
}
