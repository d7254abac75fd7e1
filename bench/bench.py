"""Measures a decision in-process, both transports, and both behind Envoy.

Figures are comparable only within one run on one machine; the order alternates. Parts two and three require Debian's
``nghttp2-client``. With ``--write`` their results go into docs/performance.md.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from bench.behind_envoy import behind_envoy
from bench.decision import decision_alone
from bench.proof import bound_tokens, dpop_proofs
from bench.report import footprint_table, machine, table, write
from bench.servers import transports
from bench.subject import Subject


def main() -> int:
    """Run all parts; returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(Path(name))
        decision_alone(subject)
        dpop_proofs()
        bound_tokens(subject)
        if shutil.which("h2load") is None:
            print("NOT MEASURED: h2load is missing; apt-get install nghttp2-client", file=sys.stderr)
            return 1
        (direct, footprints), behind = transports(subject), behind_envoy(subject)
    if "--write" in sys.argv:
        parts = {"transports": table(direct), "footprint": footprint_table(footprints), "envoy": table(behind)}
        write({"machine": machine(), **parts}, direct)
    return 0


if __name__ == "__main__":
    sys.exit(main())
