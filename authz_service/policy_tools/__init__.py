"""Tools for authors of rules: ``explain`` and ``test``, which run the code of the sidecar.

Decides nothing itself: a tool assembles an authorizer with ``runtime.assembly``, lets it decide, and shows the result.
"""
