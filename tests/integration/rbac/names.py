"""Names that the tests of this folder share."""

from __future__ import annotations

from typing import Final

NAMESPACE: Final = "llmos-system"
ACCOUNT: Final = "llmos"
"""The service account that the chart makes for a release of this name."""
OPERATOR_USER: Final = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
GATEWAY_ACCOUNT: Final = "llmos-gateway"
GATEWAY_USER: Final = f"system:serviceaccount:{NAMESPACE}:{GATEWAY_ACCOUNT}"
CLASS_VIEWERS: Final = "ml-engineers"
"""A group that the release lets view the AcceleratorClasses."""
