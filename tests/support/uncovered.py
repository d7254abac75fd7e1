"""Runs Python without measuring its coverage, which imports modules and takes memory of its own."""

from __future__ import annotations

import sys

_VARIABLES = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
PYTHON = ("env", *(part for name in _VARIABLES for part in ("-u", name)), sys.executable)
