// A client that uses oauth4webapi, until SIGTERM or the end of its standard input.
//
// oauth4webapi makes the token requests, the requests to the API and the proofs, keeps the nonces and reads the
// challenges. This file only passes commands on, as lines of JSON, and replies with what the client got and sent:
//
//   {"token": parameters, ...}  client credentials grant  -> {"response": token response, "sent": ...}
//   {"login": parameters, ...}  authorization code grant  -> the same
//   {"call": URL, ...}          request to the API        -> {"status", "headers", "body", "challenges", "sent": ...}
//
// Every command may name a "key": its proofs are made with the key of that name, "algorithm" is that of a new one.
// Without it the client sends no proof. "tls" has the authorities and the client's certificate and key. A call connects
// to 127.0.0.1 at "port", whatever host the URL names: this is the client's view of an API behind a proxy.

import { request as plain } from 'node:http';
import { request as secure } from 'node:https';
import { createInterface } from 'node:readline';
import { buffer } from 'node:stream/consumers';

import * as oauth from 'oauth4webapi';

process.once('SIGTERM', () => process.exit());

const handles = new Map(); // they keep the last nonce of each origin

async function handle({ key, algorithm = 'ES256' }) {
  if (key === undefined) return undefined;
  if (!handles.has(key)) {
    const pair = await oauth.generateKeyPair(algorithm === 'EdDSA' ? 'Ed25519' : algorithm);
    const named = (header) => { header.alg = algorithm; }; // oauth4webapi's name of EdDSA is newer than some servers
    handles.set(key, oauth.DPoP({ client_id: key }, pair, { [oauth.modifyAssertion]: named }));
  }
  return handles.get(key);
}

// A fetch that sends to a port of this machine and records what it sends.
function fetchVia(sent, { port, tls }) {
  return async (href, { method, headers, body }) => {
    const url = new URL(href);
    const options = {
      ...{ host: '127.0.0.1', port: port ?? url.port, path: url.pathname + url.search, method, agent: false },
      ...{ headers: { ...headers, host: url.host }, ...tls, servername: url.hostname },
    };
    const response = await new Promise((resolve, reject) => {
      const request = (tls ? secure : plain)(options, resolve).on('error', reject);
      request.end(body?.toString());
    });
    const content = await buffer(response);
    const received = new Headers();
    for (let i = 0; i < response.rawHeaders.length; i += 2) {
      received.append(response.rawHeaders[i], response.rawHeaders[i + 1]);
    }
    sent.push({ url: href, status: response.statusCode, proof: headers.dpop, nonce: received.get('dpop-nonce') });
    return new Response(content, { status: response.statusCode, headers: received });
  };
}

// As oauth4webapi's documentation says: the nonce is kept already when the error is raised.
async function withNonce(request) {
  try {
    return await request();
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    return request();
  }
}

async function grant(command, options) {
  const insecure = { [oauth.allowInsecureRequests]: true };
  const issuer = new URL(command.issuer);
  const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure));
  const { client_secret: secret, ...client } = command.client;
  const authentication = secret === undefined ? oauth.TlsClientAuth() : oauth.ClientSecretPost(secret);
  if (command.token) {
    return withNonce(async () => {
      const response = await oauth.clientCredentialsGrantRequest(
        server, client, authentication, command.token, options);
      return oauth.processClientCredentialsResponse(server, client, response);
    });
  }
  const { callback, redirect_uri: redirect, code_verifier: verifier, ...parameters } = command.login;
  const received = oauth.validateAuthResponse(server, client, new URL(callback), oauth.expectNoState);
  return withNonce(async () => {
    const response = await oauth.authorizationCodeGrantRequest(
      server, client, authentication, received, redirect, verifier, { ...options, additionalParameters: parameters });
    return oauth.processAuthorizationCodeResponse(server, client, response);
  });
}

async function call({ call: url, method, token }, options) {
  try {
    return [await withNonce(() => oauth.protectedResourceRequest(token, method, new URL(url), undefined, null, options))];
  } catch (error) {
    if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error;
    return [error.response, error.cause];
  }
}

async function reply(command) {
  const sent = [];
  const options = {
    DPoP: await handle(command),
    [oauth.customFetch]: fetchVia(sent, command),
    [oauth.allowInsecureRequests]: true,
  };
  if (!command.call) return { response: await grant(command, options), sent };
  const [response, challenges] = await call(command, options);
  const headers = Object.fromEntries(response.headers);
  return { status: response.status, headers, body: await response.text(), challenges, sent };
}

process.stdout.write('{}\n'); // it is ready
for await (const line of createInterface({ input: process.stdin })) {
  let replied;
  try {
    replied = await reply(JSON.parse(line));
  } catch (error) {
    console.error(error);
    replied = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(replied)}\n`);
}
process.exit(); // the test has exited
