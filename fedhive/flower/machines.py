"""Flower on real machines: a SuperLink for volunteers, a patient SuperNode, control of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from flwr.proto.node_pb2 import NodeInfo

VOLUNTEERS_PATHS = ("/v1/fleet/", "/health")
"""What a SuperLink serves that machines of volunteers need."""
KEY_UNKNOWN = "fedhive: this key is not registered"
KEY_IN_USE = "fedhive: a machine with this key is here"
IDLE_PAUSE_S = 3.0
"""How long a SuperNode sleeps when there was no message for it."""


class VolunteersOnly:
    """ASGI middleware: from elsewhere, nothing of a SuperLink but what volunteers need.

    Flower serves its Control API (submit runs, register machines) and its Runtime API (take over
    a run's server) on the port that volunteers dial, and without accounts it lets anybody in.

    Args:
        app: what is protected.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 404 to strangers who ask for more."""
        if scope["type"] == "http" and not self._allowed(scope):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)

    @staticmethod
    def _allowed(scope: Any) -> bool:
        if str(scope["path"]).startswith(VOLUNTEERS_PATHS):
            return True
        client, server = scope.get("client") or ("",), scope.get("server") or ("?",)
        own = client[0] in ("127.0.0.1", "::1") or client[0] == server[0]
        # A proxy on this machine speaks for others, and says so.
        names = {name.lower() for name, _ in scope.get("headers", ())}
        return own and not names & {b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"}


def run_superlink(arguments: Sequence[str]) -> None:
    """Be a ``flower-superlink`` whose control is reached from this machine only.

    It also tells machines that it does not let in which of Flower's two reasons holds.
    """
    import sys

    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers
    from starlette.middleware import Middleware

    handlers: Any = fleet_handlers
    activate = handlers.activate_node

    def activate_and_explain(*args: Any, **kwargs: Any) -> Any:
        try:
            return activate(*args, **kwargs)
        except FlowerError as error:
            if error.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
                unknown = "No SuperNode found" in error.message
                error.public_details = KEY_UNKNOWN if unknown else KEY_IN_USE
            raise

    handlers.activate_node = activate_and_explain
    others = extensions.get_middleware
    extensions.get_middleware = lambda: (
        Middleware(cast(Any, VolunteersOnly)), *others(),
    )  # fmt: skip
    sys.argv = ["flower-superlink", *arguments]
    flower_superlink()


class AwakeClock:
    """A clock that stands still while the machine sleeps.

    Flower takes a task for dead that has not been heard of for a minute, also if that minute was
    a laptop's night. This clock is looked at more often than ``most_s`` while the machine is
    awake, and never goes on by more than that at once.

    Args:
        now: the real time.
        most_s: longest time between two looks.
    """

    def __init__(self, now: Callable[[], Any], most_s: float = 10.0) -> None:
        import threading
        from datetime import timedelta

        self._real, self._most = now, timedelta(seconds=most_s)
        self._last = self._shown = now()
        self._lock = threading.Lock()

    def now(self) -> Any:
        """The time, less the time asleep."""
        with self._lock:
            real = self._real()
            self._shown += max(min(real - self._last, self._most), self._most * 0)
            self._last = real
            return self._shown


class _Pauses:
    """Stands in for ``time`` in a SuperNode's main loop, to look for messages sooner.

    Args:
        poll_s: seconds between looks.
        idle: called at each look that found nothing, when no work is under way.
        awake: looked at before each pause.
    """

    def __init__(self, poll_s: float, idle: Callable[[], None], awake: AwakeClock) -> None:
        self._poll_s, self._idle, self._awake = poll_s, idle, awake

    def sleep(self, seconds: float) -> None:
        import time

        self._awake.now()
        if seconds >= IDLE_PAUSE_S:
            self._idle()
        time.sleep(min(seconds, self._poll_s))


def run_supernode(
    arguments: Sequence[str],
    poll_s: float,
    idle: Callable[[], None],
    beat: Callable[[], None],
    traffic: Callable[[int, int], None] = lambda up, down: None,
) -> None:
    """Be a ``flower-supernode``; returns when it has given up, which Flower's own never tells.

    Once connected, whatever cuts the connection is taken to pass: Flower takes any error that
    mentions TLS for a wrong certificate, throws the finished reply away and never comes back.

    Args:
        arguments: of the command.
        poll_s: seconds between looks for messages; Flower's own is 3.
        idle: called at each look that found none, while no work is under way.
        beat: called whenever the SuperLink has answered.
        traffic: told of the bytes of each piece sent and received; may take its time.
    """
    import sys

    import httpx
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient

    connection: Any = fleet_http_connection
    loop: Any = start_client_internal
    state: Any = in_memory_corestate
    awake = AwakeClock(state.now)
    state.now = awake.now
    reached: list[bool] = []
    make_invoker = connection.make_simple_http_retry_invoker

    def patient() -> Any:
        invoker = make_invoker()
        usual: Any = invoker.should_giveup

        def give_up(error: Exception) -> bool:
            if isinstance(error, httpx.TransportError) and reached:
                return False
            return bool(usual(error))

        invoker.should_giveup = give_up
        return invoker

    def told(call: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, request: Any) -> Any:
            answer = call(self, request)
            if not reached:
                reached.append(True)
            beat()
            up, down = (len(getattr(part, "object_content", b"")) for part in (request, answer))
            if up or down:
                traffic(up, down)
            return answer

        return method

    connection.make_simple_http_retry_invoker = patient
    for name in (
        "ActivateNode", "SendNodeHeartbeat", "PullMessages", "PullObject", "PushObject",
    ):  # fmt: skip
        setattr(FleetHttpClient, name, told(getattr(FleetHttpClient, name)))
    loop.time = _Pauses(poll_s, idle, awake)
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def take_task(address: str, secret: bytes) -> Callable[[], str | None]:
    """A function that gives the token of a ClientApp task waiting at a SuperNode, or None.

    Args:
        address: the SuperNode's own ``host:port`` on this machine.
        secret: what it shares with whoever starts its ClientApps.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    acquire = "/flwr.proto.Runtime/AcquireTask"
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=secret, protected_methods=frozenset({acquire})
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])

    def take() -> str | None:
        answer = client.AcquireTask(request)
        return str(answer.token) if answer.HasField("task") and answer.token else None

    return take


class Refused(Exception):
    """A SuperLink said no: ``code`` is Flower's number for the reason, 0 for none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class SuperLinkControl:
    """A SuperLink's Control API, as Flower's command line uses it.

    Args:
        address: ``host:port``.
        root_certificates: PEM of the authorities to trust.

    Raises:
        Refused: (all methods) if the SuperLink refuses.
        OSError: (all methods) if it cannot be reached, or TLS fails.
    """

    def __init__(self, address: str, root_certificates: bytes) -> None:
        from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=root_certificates,
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ],
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def register(self, public_key: bytes, name: str, location: str | None) -> int:
        """Let a machine in by its public key (OpenSSH format); its node id."""
        from cryptography.hazmat.primitives import serialization
        from flwr.proto.control_pb2 import RegisterNodeRequest

        pem = serialization.load_ssh_public_key(public_key).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        request = RegisterNodeRequest(public_key=pem, location=location, name=name)
        return int(self._call(self._client.RegisterNode, request).node_id)

    def unregister(self, node_id: int) -> None:
        """Let a machine in no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[NodeInfo]:
        """The machines that are or were registered."""
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = self._call(self._client.ListNodes, ListNodesRequest())
        return list(answer.nodes_info)

    def start(self, files: dict[str, bytes], run_config: dict[str, str]) -> int:
        """Start a run of the app made of these files; its id."""
        import hashlib

        from flwr.cli.build import build_fab_from_files
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content, _ = build_fab_from_files(files)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(run_config))
        )
        return int(self._call(self._client.StartRun, request).run_id)

    def status(self, run_id: int) -> tuple[str, str]:
        """A run's status (``running``, ``finished:failed``, ...) and what is said about it."""
        from flwr.proto.control_pb2 import ListRunsRequest

        runs = self._call(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict
        found = runs[run_id].status
        return ":".join(filter(None, (found.status, found.sub_status))), str(found.details)

    def stop(self, run_id: int) -> None:
        """End a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._call(self._client.StopRun, StopRunRequest(run_id=run_id))

    def log(self, run_id: int) -> Iterator[str]:
        """What a run's server writes, piece by piece, until it ends."""
        import httpx
        from flwr.proto.control_pb2 import StreamLogsRequest

        request = StreamLogsRequest(run_id=run_id, after_timestamp=0.0)
        try:
            for piece in self._client.StreamLogs(request):
                yield str(piece.log_output)
        except httpx.TransportError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        except httpx.HTTPStatusError as error:
            raise _refused(error) from error

    @staticmethod
    def _call(method: Callable[[Any], Any], request: Any) -> Any:
        import httpx

        try:
            return method(request)
        except httpx.TransportError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        except httpx.HTTPStatusError as error:
            raise _refused(error) from error


def _refused(error: Any) -> Refused:
    from flwr.supercore.error import FlowerError

    said = FlowerError.from_json(error.response.text)
    if said is None:
        return Refused(f"HTTP status {error.response.status_code}")
    return Refused(": ".join(filter(None, (said.message, said.public_details))), int(said.code))
