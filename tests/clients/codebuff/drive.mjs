// Runs an agent with the real SDK. argv[2]: text | tool | spawn, or publisher/agent@version in the store. Prints one JSON line: output, events, tool calls.

import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CodebuffClient, getCustomToolDefinition } from '@codebuff/sdk'
import { z } from 'zod/v4'

const model = process.env.STOA_MODEL ?? 'stoa/demo'
const agent = (id, extra = {}) => ({
  id,
  displayName: id,
  model,
  outputMode: 'last_message',
  includeMessageHistory: false,
  ...extra,
})

const called = []
const measure = getCustomToolDefinition({
  toolName: 'measure_column',
  description: 'Measure the height of a column of the stoa, in metres',
  inputSchema: z.object({ column: z.number().int(), unit: z.string().optional() }),
  exampleInputs: [{ column: 3 }],
  execute: async (input) => {
    called.push(input)
    return [{ type: 'json', value: { height: 5.4, unit: 'm' } }]
  },
})

const scenarios = {
  text: { agent: agent('scribe'), prompt: 'Write a page about the stoa of Athens.' },
  tool: {
    agent: agent('surveyor', { toolNames: ['measure_column', 'end_turn'] }),
    tools: [measure],
    prompt: 'Use the tool measure_column to measure column 3, then say how tall it is.',
  },
  spawn: {
    agent: agent('foreman', { toolNames: ['spawn_agents', 'end_turn'], spawnableAgents: ['mason'] }),
    others: [agent('mason', { spawnerPrompt: 'Cuts stone', inputSchema: { prompt: { type: 'string' } } })],
    prompt: 'Use spawn_agents to have the agent mason describe how a column drum is cut.',
  },
}

const name = process.argv[2] ?? 'text'
const scenario = scenarios[name] ?? { agent: name, prompt: 'Write a page about the market square of Athens.' }
const events = []
const client = new CodebuffClient({ apiKey: process.env.STOA_KEY, cwd: mkdtempSync(join(tmpdir(), 'sdk-')) })
const connected = await client.checkConnection()
const state = await client.run({
  agent: scenario.agent.id ?? scenario.agent,
  prompt: scenario.prompt,
  agentDefinitions: scenario.agent.id ? [scenario.agent, ...(scenario.others ?? [])] : [],
  customToolDefinitions: scenario.tools ?? [],
  handleEvent: (event) => events.push(event),
})
console.log(JSON.stringify({ connected, output: state.output, called, events }))
process.exit(state.output.type === 'error' ? 1 : 0)
