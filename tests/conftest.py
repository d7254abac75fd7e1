"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# No test asserts a time: how long an example takes says more about what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
