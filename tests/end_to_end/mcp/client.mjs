// MCP clients, until SIGTERM or the end of its standard input.
//
// The SDK connects, discovers, registers, makes the authorization and token requests, keeps the tokens and steps up.
// This file stores what the SDK gives it to store, and passes commands on, as lines of JSON:
//
//   {"connect": URL, "client": information}     a new client that has no token, and without "client" no registration
//   {"call": tool, "arguments": ...}            the client calls a tool
//   {"finish": callback URL}                    the user's browser came back
//
// The reply is {"sent": requests} and the outcome: "authorize": URL (to open in the user's browser; then repeat the
// command), "result", or "error". "sent" has every HTTP request of the SDK with its headers, and what it received. The
// arguments are the SDK ("sdk" or "client", as package.json names them), a JSON object {host: port} of hosts that are at
// ports of this machine, and a PEM file with the authorities that their certificates are from.

import { readFileSync } from 'node:fs';
import { request as plain } from 'node:http';
import { request as secure } from 'node:https';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';

process.once('SIGTERM', () => process.exit());

const [, , sdk, hosts, authorities] = process.argv;
const ports = JSON.parse(hosts);
const ca = readFileSync(authorities);
const { Client, StreamableHTTPClientTransport, UnauthorizedError } = sdk === 'client'
  ? await import('@modelcontextprotocol/client')
  : {
    ...await import('@modelcontextprotocol/sdk/client/index.js'),
    ...await import('@modelcontextprotocol/sdk/client/streamableHttp.js'),
    ...await import('@modelcontextprotocol/sdk/client/auth.js'),
  };

let sent = [];

// A fetch that finds the hosts at ports of this machine and records what it sends and receives.
async function fetchRecorded(href, init = {}) {
  const url = new URL(href);
  const { method = 'GET', body, signal } = init;
  const headers = Object.fromEntries(new Headers(init.headers));
  const options = {
    ...{ host: '127.0.0.1', port: ports[url.hostname] ?? url.port, path: url.pathname + url.search, method, signal },
    ...{ headers: { ...headers, host: url.host }, ca, servername: url.hostname, agent: false },
  };
  const response = await new Promise((resolve, reject) => {
    const request = (url.protocol === 'https:' ? secure : plain)(options, resolve).on('error', reject);
    request.end(body?.toString());
  });
  const received = new Headers();
  for (let i = 0; i < response.rawHeaders.length; i += 2) {
    received.append(response.rawHeaders[i], response.rawHeaders[i + 1]);
  }
  const status = response.statusCode;
  const form = headers['content-type']?.startsWith('application/x-www-form-urlencoded');
  sent.push({
    ...{ method, url: url.href, headers, form: form ? Object.fromEntries(new URLSearchParams(body)) : undefined },
    ...{ status, received: Object.fromEntries(received) },
  });
  const content = [204, 205, 304].includes(status) ? null : Readable.toWeb(response);
  return new Response(content, { status, headers: received });
}

// What an application stores for the SDK.
class Store {
  redirectUrl = 'https://app.example/callback';
  clientMetadata = {
    client_name: 'orders assistant',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };

  constructor(information) { this.information = information; }

  clientInformation() { return this.information; }

  saveClientInformation(information) { this.information = information; }

  tokens() { return this.saved; }

  saveTokens(tokens) { this.saved = tokens; }

  redirectToAuthorization(url) { this.authorize = url.href; }

  saveCodeVerifier(verifier) { this.verifier = verifier; }

  codeVerifier() { return this.verifier; }

  saveDiscoveryState(state) { this.discovered = state; }

  discoveryState() { return this.discovered; }
}

let url;
let store;
let transport;
let client;

async function connect() {
  transport = new StreamableHTTPClientTransport(url, { authProvider: store, fetch: fetchRecorded });
  client = new Client({ name: 'orders-assistant', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } });
  await client.connect(transport);
}

async function outcome(command) {
  if (command.connect) {
    url = new URL(command.connect);
    store = new Store(command.client);
    client = undefined;
  }
  if (command.finish) {
    const { searchParams } = new URL(command.finish);
    await transport.finishAuth(sdk === 'client' ? searchParams : searchParams.get('code'));
    return {};
  }
  if (client?.transport === undefined) await connect();
  if (command.connect) return {};
  return { result: await client.callTool({ name: command.call, arguments: command.arguments }) };
}

async function reply(command) {
  sent = [];
  try {
    return { ...await outcome(command), sent };
  } catch (error) {
    if (error instanceof UnauthorizedError) return { authorize: store.authorize, sent };
    console.error(error);
    return { error: `${error.name}: ${error.message}`, sent };
  }
}

process.stdout.write('{}\n'); // it is ready
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await reply(JSON.parse(line)))}\n`);
}
process.exit(); // the test has exited
