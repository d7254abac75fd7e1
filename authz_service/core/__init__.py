"""Values and pure functions that every other package is built on.

Invariants: no I/O, no clock, no logging, no third-party library but cryptography, whose algorithms ``ml_dsa`` lists. A
function that needs the time takes it as ``now``, in seconds since the epoch.
"""
