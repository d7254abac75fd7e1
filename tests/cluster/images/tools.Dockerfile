# The programs that tests run in pods, with the Python packages of authz-service.
ARG BASE
FROM ${BASE}
COPY pods /tools
ENTRYPOINT ["python3"]
CMD ["/tools/shop.py"]
