"""Talking to identity providers over HTTP.

``client`` sends requests over connections that are used again; ``dialing`` and ``channel`` make such a connection,
``exchange`` is one request and its answer without I/O, ``urls`` reads addresses, and ``failures`` has the words for
whatever goes wrong.
"""
