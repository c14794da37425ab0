/**
 * TypeScript types of an agent definition. Validate an `AgentDefinition` with POST /api/agents/validate and publish it
 * with POST /api/agents/publish.
 *
 * JSON Schema: GET /api/docs/agent-definition.json
 */

/** A JSON Schema whose type is "object". */
export interface JsonObjectSchema {
  type: 'object'
  description?: string
  properties?: Record<string, unknown>
  required?: string[]
  [key: string]: unknown
}

/** An MCP server over HTTP. */
export interface RemoteMcpServer {
  /** Default: "http". */
  type?: 'http' | 'sse'
  url: string
  params?: Record<string, string>
  headers?: Record<string, string>
}

/** An MCP server that the client starts and connects to over stdio. */
export interface LocalMcpServer {
  type: 'stdio'
  command: string
  args?: string[]
  env?: Record<string, string>
}

export type McpServer = RemoteMcpServer | LocalMcpServer

/** Reasoning budget: a number of tokens, or an effort. */
export type ReasoningOptions = {
  enabled?: boolean
  /** Reason, but exclude the reasoning from the response. */
  exclude?: boolean
} & (
  | { max_tokens: number }
  | { effort: 'high' | 'medium' | 'low' | 'minimal' | 'none' }
)

export type Quantization =
  | 'int4'
  | 'int8'
  | 'fp4'
  | 'fp6'
  | 'fp8'
  | 'fp16'
  | 'bf16'
  | 'fp32'
  | 'unknown'

/** OpenRouter's provider preferences for this agent's calls. */
export interface ProviderOptions {
  order?: string[]
  allow_fallbacks?: boolean
  require_parameters?: boolean
  data_collection?: 'allow' | 'deny'
  only?: string[]
  ignore?: string[]
  quantizations?: Quantization[]
  sort?: 'price' | 'throughput' | 'latency'
  max_price?: {
    prompt?: number | string
    completion?: number | string
    image?: number | string
    audio?: number | string
    request?: number | string
  }
}

/** The argument of `handleSteps`. */
export interface StepContext {
  prompt?: string
  params?: Record<string, unknown>
  [key: string]: unknown
}

/** A step of `handleSteps`: call a tool, let the model take one step ('STEP'), or let it finish ('STEP_ALL'). */
export type Step = { toolName: string; input: Record<string, unknown> } | 'STEP' | 'STEP_ALL'

export interface AgentDefinition {
  /** Lower-case letters, digits and hyphens. */
  id: string
  /** Three numbers: "1.0.0". Default: the next patch version. */
  version?: string
  /** The publisher id. Required to publish. */
  publisher?: string
  /** Display name. */
  displayName: string
  /** Model id, as listed by GET /v1/models. */
  model: string

  /** For the store: an alternative name, a short description, and tags. */
  name?: string
  description?: string
  tags?: string[]
  /** An SPDX expression such as "MIT", or other text, which is shown as written. */
  license?: string
  /** What is new in this version, in Markdown. Stored beside the definition. */
  changelog?: string

  /** Tells other agents when to call this one. */
  spawnerPrompt?: string
  /** System prompt. Leave it empty with `inheritParentSystemPrompt`. */
  systemPrompt?: string
  /** Added after each user message. */
  instructionsPrompt?: string
  /** Added after each step. */
  stepPrompt?: string

  /** Available tools. 'spawn_agents' is required to call other agents. */
  toolNames?: string[]
  /** Agents it may call: 'publisher/agent@version', or the id of an agent published with it. At most 500. */
  spawnableAgents?: string[]
  /** MCP servers by name, whose tools are available too. */
  mcpServers?: Record<string, McpServer>

  /** Input of the agent. */
  inputSchema?: {
    prompt?: { type: 'string'; description?: string }
    params?: JsonObjectSchema
    [key: string]: unknown
  }
  /** Output for the calling agent. Default: 'last_message'. */
  outputMode?: 'last_message' | 'all_messages' | 'structured_output'
  /** Schema of the output; only with outputMode 'structured_output'. */
  outputSchema?: JsonObjectSchema

  /** Include the conversation of the calling agent. Default: false. */
  includeMessageHistory?: boolean
  /** Use the system prompt of the calling agent. Default: false. */
  inheritParentSystemPrompt?: boolean

  reasoningOptions?: ReasoningOptions
  providerOptions?: ProviderOptions

  /** The most credits that a run and its sub-runs spend, unless the caller gives the run another budget. */
  runBudget?: number

  /**
   * A generator function that controls each step. It is published as source code, which must start with `function*`,
   * and runs in the client, never on the server.
   */
  handleSteps?: ((context: StepContext) => Generator<Step, void, any>) | string
}
