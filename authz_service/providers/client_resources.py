"""What the clients of a process share. It is apart from ``client``, which only a provider's address needs."""

from __future__ import annotations

from authz_service.http1 import TurnBudget
from authz_service.providers.trust_anchors import TrustAnchors


class ClientResources:
    """What all clients of a process share, so that many providers cost little more than one."""

    def __init__(self, turn_budget: TurnBudget | None = None) -> None:
        self.turn_budget = TurnBudget() if turn_budget is None else turn_budget
        self.trust_anchors = TrustAnchors()  # the system's
