/**
 * What an agent is, in TypeScript. Write an object of type `AgentDefinition`, check it with
 * POST /api/agents/validate, and publish it with POST /api/agents/publish.
 *
 * The same as JSON Schema: GET /api/docs/agent-definition.json
 */

/** A JSON Schema whose type is "object". */
export interface JsonObjectSchema {
  type: 'object'
  description?: string
  properties?: Record<string, unknown>
  required?: string[]
  [key: string]: unknown
}

/** An MCP server that is reached over HTTP. */
export interface RemoteMcpServer {
  /** Default: "http". */
  type?: 'http' | 'sse'
  url: string
  params?: Record<string, string>
  headers?: Record<string, string>
}

/** An MCP server that the client starts and speaks to over standard input and output. */
export interface LocalMcpServer {
  type: 'stdio'
  command: string
  args?: string[]
  env?: Record<string, string>
}

export type McpServer = RemoteMcpServer | LocalMcpServer

/** How much the model may think: a number of tokens, or an effort. */
export type ReasoningOptions = {
  enabled?: boolean
  /** Think, but leave the thoughts out of the answer. */
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

/** Which providers OpenRouter may choose for this agent's calls. */
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

/** What `handleSteps` is started with. */
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
  /** Three numbers: "1.0.0". Left out, publishing takes the next patch version. */
  version?: string
  /** The publisher it appears under. Needed to publish. */
  publisher?: string
  /** The name people read. */
  displayName: string
  /** The model it runs on, as GET /v1/models names it. */
  model: string

  /** For the store: another name, a sentence or two on what it does, and the words it is filed under. */
  name?: string
  description?: string
  tags?: string[]

  /** Tells other agents when to call this one. */
  spawnerPrompt?: string
  /** Opens the conversation. Leave it empty with `inheritParentSystemPrompt`. */
  systemPrompt?: string
  /** Follows each message of the user. */
  instructionsPrompt?: string
  /** Follows each step. */
  stepPrompt?: string

  /** Tools it may use. Calling other agents needs 'spawn_agents'. */
  toolNames?: string[]
  /** Agents it may call: 'publisher/agent@version', or the id of an agent published with it. At most 500. */
  spawnableAgents?: string[]
  /** MCP servers whose tools it may use, by name. */
  mcpServers?: Record<string, McpServer>

  /** What it takes. */
  inputSchema?: {
    prompt?: { type: 'string'; description?: string }
    params?: JsonObjectSchema
    [key: string]: unknown
  }
  /** What its caller receives. Default: 'last_message'. */
  outputMode?: 'last_message' | 'all_messages' | 'structured_output'
  /** The shape of its output; only with outputMode 'structured_output'. */
  outputSchema?: JsonObjectSchema

  /** Whether it sees the conversation of its caller. Default: false. */
  includeMessageHistory?: boolean
  /** Whether it works under the system prompt of its caller. Default: false. */
  inheritParentSystemPrompt?: boolean

  reasoningOptions?: ReasoningOptions
  providerOptions?: ProviderOptions

  /**
   * A generator that says what happens step by step. It is published as its source, which must begin with
   * `function*`; it runs in the client, never on the server.
   */
  handleSteps?: ((context: StepContext) => Generator<Step, void, any>) | string
}
