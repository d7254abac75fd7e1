// oidc-provider on a free loopback port, until SIGTERM or the end of its standard input.
//
// oidc-provider issues, signs and publishes everything. This file only configures it, answers every login as alice with
// her consent, and replaces its keys on request. It writes one line to standard output when it listens, and one reply for
// each line that it reads: {} or {"publish": [names of keys]}. Its arguments are the name of the release in package.json,
// a JSON array of further clients, such as APIs that introspect tokens, and optionally a PEM file with a certificate and
// its key: with it, oidc-provider also listens with TLS, for clients that authenticate with a certificate (RFC 8705).
//
// In a pod, OIDC_PROVIDER_ISSUER is its URL: it then listens with TLS only, on port 8443 of all addresses.
// OIDC_PROVIDER_KEYS is a JSON file with private JWKs by name, which a restarted pod still has.

import { generateKeyPair, randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

const { default: Provider } = await import(process.argv[2]);

process.once('SIGTERM', () => process.exit());
console.info = console.warn; // standard output is for replies to the test
const { OIDC_PROVIDER_ISSUER: ISSUER, OIDC_PROVIDER_KEYS: KEYS } = process.env;

// The algorithm that signs the access tokens for each resource.
const RESOURCES = {
  'https://rs256.api.example/': 'RS256',
  'https://ps256.api.example/': 'PS256',
  'https://es256.api.example/': 'ES256',
  'https://eddsa.api.example/': 'EdDSA',
  'https://other.example/': 'RS256',
  'https://mcp.example/mcp': 'ES256',
  'https://shop.example.com/': 'ES256',
};
const OPAQUE = ['https://opaque.api.example/', 'https://opaque.other.example/'];
const SCOPES = {
  'https://mcp.example/mcp': 'orders.read orders.write',
  'https://shop.example.com/': 'orders billing', // as in the documents on Kubernetes
};
const REGISTERED = Object.values(SCOPES).flatMap((each) => each.split(' ')); // scopes that clients register
const scopes = (resource) => SCOPES[resource] ?? 'read:appointments write:appointments';
const KINDS = {
  RSA: ['rsa', { modulusLength: 2048 }],
  EC: ['ec', { namedCurve: 'P-256' }],
  OKP: ['ed25519', {}],
};

const TEMPORARY = ['AccessToken', 'ClientCredentials', 'Grant', 'IdToken', 'Interaction', 'RefreshToken', 'Session'];

// Keys have names such as "RSA-1" and "EC-2", and are generated on first use unless given, without kid and alg.
const keys = new Map(KEYS ? Object.entries(JSON.parse(readFileSync(KEYS))) : []);

async function key(name) {
  if (!keys.has(name)) {
    const { privateKey } = await promisify(generateKeyPair)(...KINDS[name.split('-')[0]]);
    keys.set(name, privateKey.export({ format: 'jwk' }));
  }
  return keys.get(name);
}

async function loadExistingGrant({ oidc }) {
  const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
  grant.addOIDCScope(['openid', 'email', ...REGISTERED].join(' '));
  for (const resource of [...Object.keys(RESOURCES), ...OPAQUE]) grant.addResourceScope(resource, scopes(resource));
  await grant.save();
  return grant;
}

// Any certificate is accepted here, because oidc-provider compares it with those that a client has registered.
const pem = process.argv[4] && readFileSync(process.argv[4]);
const tlsServer = pem && createTlsServer({ cert: pem, key: pem, requestCert: true, rejectUnauthorized: false }, handle);

function getCertificate(ctx) {
  const { raw } = ctx.req.socket.getPeerCertificate?.() ?? {};
  return raw && new X509Certificate(raw);
}

const configuration = {
  clients: [
    {
      client_id: 'service',
      client_secret: 'service-secret',
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'client_secret_post',
    },
    {
      client_id: 'app',
      client_secret: 'app-secret',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      redirect_uris: ['https://app.example/callback'],
      token_endpoint_auth_method: 'client_secret_post',
      userinfo_signed_response_alg: 'RS256',
      introspection_signed_response_alg: 'RS256',
      authorization_signed_response_alg: 'RS256',
    },
    ...JSON.parse(process.argv[3] ?? '[]').map((api) => ({
      grant_types: [],
      response_types: [],
      redirect_uris: [],
      ...api,
    })),
  ],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  clientAuthMethods: [
    ...['client_secret_basic', 'client_secret_jwt', 'client_secret_post', 'private_key_jwt', 'none'], // the default
    ...(tlsServer ? ['self_signed_tls_client_auth'] : []),
  ],
  cookies: { keys: [randomBytes(32).toString('hex')] },
  features: {
    clientCredentials: { enabled: true },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    jwtIntrospection: { enabled: true },
    jwtResponseModes: { enabled: true },
    jwtUserinfo: { enabled: true },
    mTLS: {
      enabled: tlsServer !== undefined,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      getCertificate,
    },
    registration: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: scopes(resource),
        ...(OPAQUE.includes(resource)
          ? { accessTokenFormat: 'opaque' }
          : { accessTokenFormat: 'jwt', jwt: { sign: { alg: RESOURCES[resource] } } }),
      }),
    },
  },
  enabledJWA: { dPoPSigningAlgValues: ['ES256', 'ES384', 'EdDSA', 'PS256', 'RS256'] },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true }),
  }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  issueRefreshToken: () => true,
  scopes: ['openid', 'offline_access', ...REGISTERED],
  loadExistingGrant,
  ttl: Object.fromEntries(TEMPORARY.map((name) => [name, 600])),
};

// The keys of an oidc-provider instance are fixed, so a new key set is a new instance behind the same server.
let provider;
let serve;
const served = {};

const server = createServer(handle);

async function handle(request, response) {
  const { pathname } = new URL(request.url, 'http://127.0.0.1');
  served[pathname] = (served[pathname] ?? 0) + 1;
  if (pathname === '/signed/introspection') { // like a provider that signs every response, requested or not
    request.url = '/token/introspection';
    request.headers.accept = 'application/token-introspection+jwt';
  }
  try {
    if (pathname.startsWith('/interaction/')) {
      await provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
    } else {
      serve(request, response);
    }
  } catch (error) {
    console.error(error);
    response.writeHead(500).end();
  }
}

async function publish(names) {
  const jwks = { keys: await Promise.all(names.map(key)) };
  const discovery = tlsServer ? {
    mtls_endpoint_aliases: {
      token_endpoint: `${ISSUER ?? `https://127.0.0.1:${tlsServer.address().port}`}/token`,
    },
  } : {};
  const issuer = ISSUER ?? `http://127.0.0.1:${server.address().port}`;
  provider = new Provider(issuer, { ...configuration, discovery, jwks });
  provider.on('server_error', (ctx, error) => console.error(error));
  serve = provider.callback();
}

function tell() {
  process.stdout.write(`${JSON.stringify({ issuer: provider.issuer, served })}\n`);
}

if (ISSUER) {
  tlsServer.listen(8443);
  await once(tlsServer, 'listening');
} else {
  for (const each of tlsServer ? [server, tlsServer] : [server]) {
    each.listen(0, '127.0.0.1');
    await once(each, 'listening');
  }
}
await publish(['RSA-1', 'EC-1', 'OKP-1']);
tell();
for await (const line of createInterface({ input: process.stdin })) {
  const { publish: names } = JSON.parse(line);
  if (names) await publish(names);
  tell();
}
process.exit(); // the test has exited
