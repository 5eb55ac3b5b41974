"""What an operator knows of real machines: where they stand, what they draw, how fast they are.

A SuperLink knows keys and names. Schedules by carbon and the ledger of energy need zones and
watts, which the operator writes down: one mapping a machine with the fields of
`fedhive.world.devices.Device`, as for ``fleet=file``, whose ``name`` is the one under which the
machine is registered. An entry may say ``node``, its number in the hive, to be found by that; one
named ``*`` stands for all machines that are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedhive import config
from fedhive.errors import UserError
from fedhive.world.carbon import CarbonSignal, grams
from fedhive.world.devices import Device
from fedhive.world.fleets import listed_device, listed_rows

OTHERS = "*"


@dataclass(frozen=True)
class Roster:
    """Machines by name or number, and the intensity of their electricity.

    Args:
        rows: one mapping a machine.
        carbon: intensity by zone; times are seconds since the run began. None leaves emissions
            unknown, and schedules by carbon refuse.
        where: what mistakes are told to be in.

    Raises:
        UserError: for an entry that makes no machine, or is there twice.
    """

    rows: Sequence[Mapping[str, Any]]
    carbon: CarbonSignal | None = None
    where: str = "engine.machines"
    _by_name: Mapping[str, Device] = field(init=False, repr=False, compare=False)
    _by_number: Mapping[int, Device] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[str, Device] = {}
        numbers: dict[int, Device] = {}
        for i, row in enumerate(self.rows):
            device, number = self._entry(i, dict(row))
            if number is not None and numbers.setdefault(number, device) is not device:
                raise UserError(f"{self.where}: machine {number} is there twice")
            if number is None and names.setdefault(device.name, device) is not device:
                raise UserError(f"{self.where}: {device.name!r} is there twice")
        object.__setattr__(self, "_by_name", names)
        object.__setattr__(self, "_by_number", numbers)

    def _entry(self, i: int, row: dict[str, Any]) -> tuple[Device, int | None]:
        number = row.pop("node", None)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise UserError(f"{self.where}: machine {i}: node must be a number, got {number!r}")
        if number is None and "name" not in row:
            raise UserError(f"{self.where}: machine {i}: give its name, or its node")
        device = listed_device(f"{self.where}: machine {i}", i, row)
        if self.carbon is not None:
            self.carbon.mean_g_per_kwh(device.zone, 0.0, 1.0)  # an unknown zone is told now
        return device, number

    def of(self, number: int, name: str) -> Device | None:
        """The machine of a number and a name; None if it is not listed."""
        found = self._by_number.get(number) or self._by_name.get(name)
        others = self._by_name.get(OTHERS)
        return replace(others, name=name) if found is None and others is not None else found

    @property
    def devices(self) -> list[Device]:
        """All machines that are listed."""
        return [*self._by_number.values(), *self._by_name.values()]

    def cost(
        self, device: Device, event: Mapping[str, Any], samples: float | None
    ) -> tuple[float | None, float | None]:
        """Joules and grams of a task, by what its machine is known to draw.

        It computed for as long as its samples take at its rate, and communicated for as long as
        its bytes take; neither for longer than the task lasted. The rest of the time it waited
        for its turn, for the server's question, or to be back: that is not charged to the task.

        Args:
            device: who did it.
            event: its line of ``events.jsonl.gz``.
            samples: that were processed; None if nobody knows.

        Returns:
            None where unknown.
        """
        if samples is None:
            return None, None
        down, up = float(event["bytes_down"]), float(event["bytes_up"])
        lasted = max(0.0, event["end_s"] - event["begin_s"])
        talking = device.download_s(down) + (device.upload_s(up) if up else 0.0)
        talking = min(talking, lasted)
        computing = min(device.train_s(samples), lasted - talking)
        joules = (
            device.train_w * computing
            + device.comm_w * talking
            + device.net_j_per_byte * (down + up)
        )
        if self.carbon is None:
            return joules, None
        end = max(event["end_s"], event["begin_s"])
        return joules, grams(self.carbon, device.zone, joules, event["begin_s"], end)


def roster_of(cfg: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Roster:
    """Machines with the intensity of electricity that a configuration chooses.

    Args:
        cfg: the composed configuration: ``carbon``, ``nodes``, ``seed``.
        rows: one mapping a machine.

    Raises:
        UserError: for an entry that makes no machine, or a zone without intensity.
    """
    devices = Roster(rows).devices
    about = {"nodes": int(cfg["nodes"]), "seed": int(cfg["seed"]), "devices": devices}
    return Roster(rows, config.build(cfg["carbon"], "carbon", **about))


def read_rows(path: str) -> list[dict[str, Any]]:
    """The entries of a machines file, checked, as plain data that can be sent to a server.

    Raises:
        UserError: for a file that cannot be read, or entries that make no machines.
    """
    file = Path(path).expanduser()
    rows = listed_rows(file, "engine.machines")
    Roster(rows, where=str(file))
    return rows
