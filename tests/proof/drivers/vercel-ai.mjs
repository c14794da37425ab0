// The Vercel AI SDK: a non-streaming call, a stream, a tool.

import assert from 'node:assert'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, streamText, tool } from 'ai'
import { z } from 'zod'

const provider = createOpenAICompatible({
  name: 'stoa',
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
})
const model = provider('stoa/demo')
const prompt = 'Write a line about the stoa.'
assert((await generateText({ model, prompt })).text)
const stream = streamText({ model, prompt })
let text = ''
for await (const delta of stream.textStream) text += delta
assert(text)
assert((await stream.usage).outputTokens)
const measure = tool({
  description: 'Measure a column',
  inputSchema: z.object({ column: z.number().int() }),
  execute: async () => 5.4,
})
const toolPrompt = 'Use the tool measure to measure column 3.'
assert((await generateText({ model, prompt: toolPrompt, tools: { measure } })).toolCalls.length)
