# What holds the namespaces of a pod.
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
