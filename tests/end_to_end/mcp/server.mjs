// An MCP server with two tools, until SIGTERM or the end of its standard input. It knows nothing of authorization.
//
// It writes one line to standard output when it listens, {"port": ...}, and one reply for each line that it reads: the
// headers of every HTTP request that reached it and the names of the tools that ran, since the last reply. Its argument
// is the SDK that serves: "sdk" (revisions up to 2025-11-25) or "server" (2026-07-28 and, for older clients, 2025-11-25).

import { once } from 'node:events';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import { toNodeHandler } from '@modelcontextprotocol/node';
import { McpServer as CurrentServer, createMcpHandler } from '@modelcontextprotocol/server';
import { McpServer as EarlierServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { z } from 'zod';

process.once('SIGTERM', () => process.exit());

let requests = [];
let ran = [];

function withTools(server, schema) {
  for (const [name, done] of [['get_order', 'shipped'], ['delete_order', 'deleted']]) {
    server.registerTool(name, { inputSchema: schema({ id: z.string() }) }, ({ id }) => {
      ran.push(name);
      return { content: [{ type: 'text', text: `order ${id} ${done}` }] };
    });
  }
  return server;
}

const info = { name: 'orders', version: '1.0.0' };
const handlers = {
  server: toNodeHandler(createMcpHandler(() => withTools(new CurrentServer(info), (shape) => z.object(shape)))),
  sdk: async (request, response) => { // one server for each request, as the SDK's documentation says for no sessions
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    await withTools(new EarlierServer(info), (shape) => shape).connect(transport);
    await transport.handleRequest(request, response);
  },
};
const handle = handlers[process.argv[2]];

const server = createServer((request, response) => {
  requests.push({ method: request.method, path: request.url, headers: request.headers });
  handle(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  });
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
process.stdout.write(`${JSON.stringify({ port: server.address().port })}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  JSON.parse(line);
  process.stdout.write(`${JSON.stringify({ requests, ran })}\n`);
  [requests, ran] = [[], []];
}
process.exit(); // the test has exited
