"""Tools for authors of rules: ``explain`` and ``test``, which run the code of the sidecar.

Decides nothing itself: a tool assembles an authorizer with ``runtime.assembly``, lets it decide, and shows the result.

``explain`` repeats the steps of one decision, ``explanation`` formats them, ``proof_findings`` examines a DPoP proof or
certificate, and ``saved_events`` reads what a sidecar received. ``case_file`` reads ``cases``, ``run_cases`` runs them,
with tokens of an ``ephemeral_issuer`` and proofs of an ``ephemeral_client`` (whose keys are a ``signing_key``), and
``junit`` reports them. Both make a ``request``, which may have a ``client_certificate``.
"""
