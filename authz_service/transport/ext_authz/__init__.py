"""Envoy's external authorization: the bytes of a CheckRequest in, the bytes of a CheckResponse out.

``codec`` translates between the wire and the core, and ``as_json`` shows a response to people; ``servicer`` answers one
call, whatever happens.
"""
