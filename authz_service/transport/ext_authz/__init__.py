"""Envoy's external authorization: the bytes of a CheckRequest in, the bytes of a CheckResponse out.

``codec`` translates between the wire and the core; ``servicer`` answers one call, whatever happens.
"""
