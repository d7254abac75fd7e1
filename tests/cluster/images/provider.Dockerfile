# oidc-provider with its locked packages, and the Node.js of the machine that builds.
ARG BASE
FROM ${BASE}
COPY node /usr/local/bin/node
COPY provider.mjs package.json /provider/
COPY node_modules /provider/node_modules
WORKDIR /provider
USER 65532:65532
ENTRYPOINT ["node", "provider.mjs"]
