"""A SuperLink's control with answers that people can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedhive.errors import UserError

if TYPE_CHECKING:  # importing Flower takes most of a second
    from fedhive.flower import SuperLinkControl

T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """A machine as its SuperLink knows it.

    Args:
        node: its id there.
        name: given at registration.
        location: ``"latitude,longitude"``, or empty.
        status: ``registered`` (never seen), ``online`` or ``offline``.
        seen: when it last came or left, as Flower writes times; empty for never.
    """

    node: int
    name: str
    location: str
    status: str
    seen: str


@dataclass(frozen=True)
class Control:
    """One SuperLink's Control API.

    Args:
        address: ``host:port``.
        root_certificates: of the authority that signed its certificate.
    """

    address: str
    root_certificates: Path

    def register(self, public_key: bytes, name: str, location: str | None) -> int:
        """Let a machine in; its node id.

        Raises:
            UserError: (as all methods) if the SuperLink refuses, or cannot be reached.
        """
        return self._call("register a machine", lambda c: c.register(public_key, name, location))

    def unregister(self, node_id: int) -> None:
        """Let a machine in no more."""
        self._call("remove a machine", lambda c: c.unregister(node_id))

    def machines(self) -> list[Machine]:
        """The machines that may come."""
        found = self._call("list machines", lambda c: c.nodes())
        return [
            Machine(
                int(node.node_id), str(node.name), str(node.location), str(node.status),
                max(str(node.last_activated_at), str(node.last_deactivated_at)),
            )
            for node in found
            if not node.unregistered_at
        ]  # fmt: skip

    def start(self, files: dict[str, bytes], run_config: dict[str, str]) -> int:
        """Start a run; its id."""
        return self._call("start a run", lambda c: c.start(files, run_config))

    def status(self, run_id: int) -> tuple[str, str]:
        """A run's status, e.g. ``running`` or ``finished:failed``, and what is said about it."""
        return self._call("look up the run", lambda c: c.status(run_id))

    def stop(self, run_id: int) -> None:
        """End a run."""
        self._call("stop the run", lambda c: c.stop(run_id))

    def log(self, run_id: int) -> Iterator[str]:
        """The lines that a run's server writes, as they come, until it ends.

        Raises:
            ConnectionError: if the SuperLink goes away.
        """
        from fedhive.flower import Refused

        with self._client() as client:
            rest = ""
            try:
                for piece in client.log(run_id):
                    *lines, rest = (rest + piece).split("\n")
                    yield from lines
            except Refused as error:
                raise ConnectionError(str(error)) from error
            if rest:
                yield rest

    @contextlib.contextmanager
    def _client(self) -> Iterator[SuperLinkControl]:
        from fedhive.flower import SuperLinkControl

        client = SuperLinkControl(self.address, self._authority())
        try:
            yield client
        finally:
            client.close()

    def _authority(self) -> bytes:
        try:
            return self.root_certificates.expanduser().read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.root_certificates}: {error.strerror}; give the certificate of the "
                "authority that signed the SuperLink's"
            ) from error

    def _call(self, what: str, call: Callable[[SuperLinkControl], T]) -> T:
        from fedhive.flower import Refused

        where = f"the SuperLink at {self.address}"
        try:
            with self._client() as client:
                return call(client)
        except Refused as error:
            raise UserError(f"{where} would not {what}: {error}") from error
        except OSError as error:
            said = str(error)
            if any(word in said.lower() for word in ("certificate", "ssl", "tls")):
                raise UserError(
                    f"{where} is not trusted ({said}); is {self.root_certificates} this hive's "
                    "authority? `fedhive deploy check` looks for what is wrong"
                ) from error
            raise UserError(
                f"{where} cannot be reached ({said}); start it with `fedhive deploy start`, or "
                "give the right address"
            ) from error
