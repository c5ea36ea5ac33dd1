"""The flow that fetches recorded decisions from the operator, through the API server's pod proxy.

They are not in the API: a second of each pool in etcd would be too much. The operator's leader keeps the last minutes
in memory and answers on its metrics port; a standby answers 404, so one replica after the other is asked.
"""

from __future__ import annotations

from typing import Final

from llmos.client.answers import check, is_status
from llmos.client.errors import ForbiddenError, NotFoundError
from llmos.client.flow import Flow, Request, Send

OPERATOR_PORT: Final = 8080
_SELECTOR: Final = "app.kubernetes.io/name=llmos,app.kubernetes.io/component=operator"
_RIGHTS: Final = (
    "Ask the cluster's administrator for `list` on pods and `get` on pods/proxy in the operator's namespace "
    "(named by --operator-namespace), or to run this command."
)


def read_scaling_samples(namespace: str, name: str, operator_namespace: str | None) -> Flow[str]:
    """The operator's last decisions about a pool, one line of JSON each.

    Raises:
        NotFoundError: there is no operator, or it decides nothing about such a pool.
    """
    inside = f"/namespaces/{operator_namespace}" if operator_namespace else ""
    try:
        reply = yield Send(Request("GET", f"/api/v1{inside}/pods", {"labelSelector": _SELECTOR}))
        pods = check(reply, "Pod").as_object().get("items", ())
        for pod in pods:
            metadata = pod["metadata"]
            proxy = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{OPERATOR_PORT}/proxy"
            reply = yield Send(Request("GET", f"{proxy}/scaling/{namespace}/{name}"))
            if reply.status == 404 or (reply.status == 503 and is_status(reply.as_object())):
                # Not the leader, or a pod that does not answer yet or any more.
                continue
            return check(reply, f"Pod {metadata['name']}").text
    except ForbiddenError as error:
        raise ForbiddenError(error.cause, _RIGHTS) from error
    if not pods:
        raise NotFoundError(
            f"No pod of the operator was found{f' in namespace {operator_namespace}' if operator_namespace else ''}.",
            "Check that the operator runs: kubectl get pods -A -l app.kubernetes.io/name=llmos.",
        )
    raise NotFoundError(
        f"The operator has recorded no decision about InferencePool {namespace}/{name}.",
        "Only pools with spec.scaling are decided about, and only the leader records; it begins anew when it starts.",
    )
