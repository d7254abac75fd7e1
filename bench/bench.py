"""Measures a decision in-process, both transports, both behind Envoy, what a pod costs, and how costs grow.

Figures are comparable only within one run on one machine; the order alternates. What goes over the wire requires
Debian's ``nghttp2-client``. With ``--write`` the results go into docs/understand/performance.md. ``--before REVISION``
measures an earlier commit and this tree instead.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench.before import compare
from bench.behind_envoy import behind_envoy
from bench.decision import decision_alone
from bench.denials import denials
from bench.footprint import footprint
from bench.growth import growth
from bench.proof import bound_tokens, dpop_proofs
from bench.report import GROWTH, LOADS, MEMORY, TIMES, machine, table, write
from bench.servers import transports
from bench.subject import Subject


def main() -> int:
    """Run all parts; returns the exit status."""
    options = argparse.ArgumentParser(prog="bench")
    options.add_argument("--write", action="store_true")
    options.add_argument("--before", metavar="REVISION", default="")
    chosen = options.parse_args()
    if shutil.which("h2load") is None:
        print("NOT MEASURED: h2load is missing; apt-get install nghttp2-client", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(Path(name))
        if chosen.before:
            compare(subject, chosen.before)
            return 0
        decision_alone(subject)
        denials(subject)
        dpop_proofs()
        bound_tokens(subject)
        direct, behind, grown = transports(subject), behind_envoy(subject), growth(subject)
        times, memories = footprint(subject)
    if chosen.write:
        parts = {"times": table(TIMES, times), "memory": table(MEMORY, memories), "growth": table(GROWTH, grown)}
        tables = {"transports": table(LOADS, direct), "envoy": table(LOADS, behind)}
        write({"machine": machine(), **tables, **parts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
