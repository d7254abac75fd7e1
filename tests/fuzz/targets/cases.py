"""A file of policy cases is a list of problems with their lines, or cases that can be tried.

* A file that cannot be read ends in ``ConfigError``, each problem of which names the file and a line of it.
* Trying a case ends in an outcome, whatever the case requests and expects, and its differences do not quote a token.
"""

from __future__ import annotations

import functools

from authz_service.core.errors import ConfigError
from authz_service.policy_tools import case_file
from authz_service.policy_tools.run_cases import CaseRunner
from fuzz import files
from fuzz.problems import require_located
from fuzz.secrets import is_secret
from fuzz.sidecar import settings

OUTCOMES = {"passed", "failed", "rejected"}
MAX_BYTES = 8192


@functools.cache
def _runner() -> CaseRunner:
    return CaseRunner(settings())


def run(data: bytes) -> str:
    file = files.written("cases.yaml", data)
    try:
        read = case_file.read(file, settings())
    except ConfigError as error:
        require_located(error, file, data)
        return "rejected"
    outcomes = [_runner().run(case) for case in read]
    for case, outcome in zip(read, outcomes, strict=True):
        raw = case.token.raw if case.token is not None else None
        if raw is not None and is_secret(raw, data):
            assert raw not in "\n".join(outcome.differences)
    return "passed" if all(outcome.passed for outcome in outcomes) else "failed"
