# syntax=docker/dockerfile:1
#
# The image of authz-service: Python and its wheels, a numeric user, and no build tools.
#
#   docker build --tag REGISTRY/authz-service:0.1.0 \
#     --build-arg BASE=docker.io/library/python:3.13-slim@sha256:DIGEST \
#     --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --build-arg REVISION=$(git rev-parse HEAD) .
#
# Pin BASE by digest, so that a commit always yields the same image. To find the digest:
#   docker buildx imagetools inspect docker.io/library/python:3.13-slim
# The wheels come from requirements/runtime.txt, with hashes. With SOURCE_DATE_EPOCH, and BuildKit's
# `--output type=image,rewrite-timestamp=true`, two builds on the same BASE are identical.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY authz_service authz_service
COPY docker docker
COPY requirements requirements
RUN ["sh", "docker/install.sh", "/opt/authz-service"]

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="authz-service" \
      org.opencontainers.image.description="Token authorization for Envoy: access tokens in, allow or deny out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/authz-service /opt/authz-service
ENV PATH=/opt/authz-service/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, because Kubernetes cannot verify that a user name is not root.
USER 65532:65532
EXPOSE 9191 9192
# Start, probes and stop need no shell.
ENTRYPOINT ["authz-service"]
CMD ["serve", "--config", "/etc/authz-service/config.yaml"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["authz-service", "healthcheck", "--config", "/etc/authz-service/config.yaml"]
