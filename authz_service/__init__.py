"""authz-service: the sidecar that Envoy asks before it lets a request through.

One request, one straight way: wire -> attributes -> rule -> credential -> claims -> decision -> wire.

The layers, each importing only what stands below it (import-linter holds this in ``make lint``)::

    cli           the commands
    demo          the whole path on one machine
    workers       several processes that serve as one
    app           builds every object from the settings; start, run, stop
    transport     bytes of a CheckRequest in, bytes of a CheckResponse out  | admin: /metrics /healthz /readyz
    authorizer    the story of one decision
    tokens        a credential becomes claims  | rules: a request finds its rule
    keys          the issuers' published keys
    telemetry     metrics and logs
    config        one YAML file becomes frozen settings
    core          values and pure functions: attributes, paths, credential, claims, decision, challenge
"""

__version__ = "0.1.0"
