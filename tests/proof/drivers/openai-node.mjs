// openai for Node: a non-streaming call and a stream with usage.

import assert from 'node:assert'
import OpenAI from 'openai'

const client = new OpenAI()
const messages = [{ role: 'user', content: 'Write a line about the stoa.' }]
const whole = await client.chat.completions.create({ model: 'stoa/demo', messages })
assert(whole.choices[0].message.content)
let text = ''
let usage
const stream = { model: 'stoa/demo', messages, stream: true, stream_options: { include_usage: true } }
for await (const chunk of await client.chat.completions.create(stream)) {
  text += chunk.choices[0]?.delta?.content ?? ''
  usage = chunk.usage ?? usage
}
assert(text)
assert(usage.completion_tokens)
