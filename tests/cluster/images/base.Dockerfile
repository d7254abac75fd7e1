# What python:3.13-slim is on machines with Docker: made from Debian's packages, without a registry of images.
FROM scratch
COPY base /
# Those that this machine trusts, because pip fetches wheels from here on.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
