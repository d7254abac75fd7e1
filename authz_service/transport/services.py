"""The gRPC services, by the names under which clients call them."""

from __future__ import annotations

from typing import Final

SERVICE: Final = "envoy.service.auth.v3.Authorization"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"
REFLECTION_SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
