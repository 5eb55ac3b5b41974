"""When a volunteer's machine may work: with a psutil that says what we want, and the real one."""

from __future__ import annotations

from collections import namedtuple
from datetime import datetime
from types import SimpleNamespace

import psutil
import pytest

from fedhive.join import policy
from fedhive.join.facts import facts
from fedhive.join.policy import ThisComputer, hindrance, within
from fedhive.join.settings import Settings, When

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal")
MONDAY = datetime(2026, 11, 23)


class Fake:
    """As much of psutil as is looked at."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.battery: SimpleNamespace | None = None
        self.names = ["python", "Zoom.exe", None]
        self.times = Times(0, 0, 0, 0, 0, 0, 0, 0)
        self.own_s = 0.0

    def sensors_battery(self):
        return self.battery

    def users(self):
        return []

    def cpu_times(self):
        return self.times

    def process_iter(self, attributes):
        return [SimpleNamespace(info={"name": name}) for name in self.names]

    def Process(self, pid):
        return SimpleNamespace(
            children=lambda recursive: [],
            cpu_times=lambda: SimpleNamespace(user=self.own_s, system=0.0),
        )

    def cpu_count(self, logical=True):
        return 4

    def virtual_memory(self):
        return SimpleNamespace(total=8e9)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(policy, "_session_idle_s", lambda: 1e9)
    return Fake()


def test_battery(fake: Fake) -> None:
    computer = ThisComputer(fake)
    assert hindrance(When(), computer, MONDAY) == ""  # no battery at all
    fake.battery = SimpleNamespace(power_plugged=False)
    assert hindrance(When(), computer, MONDAY) == "on battery"
    assert hindrance(When(mains_only=False), computer, MONDAY) == ""
    fake.battery = SimpleNamespace(power_plugged=None)  # it cannot tell
    assert hindrance(When(), computer, MONDAY) == "on battery"
    fake.battery = SimpleNamespace(power_plugged=True)
    assert hindrance(When(), computer, MONDAY) == ""


def test_programs_beside_which_it_does_not_work(fake: Fake) -> None:
    computer = ThisComputer(fake)
    assert hindrance(When(pause_for=("zoom",)), computer, MONDAY) == "zoom is running"
    assert hindrance(When(pause_for=("ZOOM.EXE",)), computer, MONDAY) == "ZOOM.EXE is running"
    assert hindrance(When(pause_for=("steam",)), computer, MONDAY) == ""


def test_idle_means_nobody_there(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    computer = ThisComputer(fake)
    assert hindrance(When(idle_only=True), computer, MONDAY) == ""
    monkeypatch.setattr(policy, "_session_idle_s", lambda: 299.0)
    assert "somebody" in hindrance(When(idle_only=True), computer, MONDAY)
    assert hindrance(When(idle_only=True, idle_minutes=4.9), computer, MONDAY) == ""


def test_idle_means_nothing_else_works_but_the_hive_itself(fake: Fake) -> None:
    computer = ThisComputer(fake, own=[1])
    when = When(idle_only=True, busy_percent=25.0)
    fake.times, fake.own_s = Times(100, 0, 0, 100, 0, 0, 0, 0), 50.0
    assert hindrance(when, computer, MONDAY) == ""  # the first look knows nothing
    fake.times, fake.own_s = Times(190, 0, 0, 110, 0, 0, 0, 0), 140.0  # all of it its own
    assert hindrance(when, computer, MONDAY) == ""
    fake.times = Times(220, 0, 0, 180, 0, 0, 0, 0)  # 30 of 100 seconds are somebody else's
    assert "(30 %)" in hindrance(when, computer, MONDAY)


@pytest.mark.parametrize(
    ("hours", "day", "hour", "free"),
    [
        ({}, 0, 3, True),
        ({"mon": "09:00-17:00"}, 0, 9, True),
        ({"mon": "09:00-17:00"}, 0, 17, False),
        ({"mon": "09:00-17:00"}, 1, 12, False),  # a day that is not named
        ({"mon": "20:00-08:00"}, 0, 21, True),
        ({"mon": "20:00-08:00"}, 1, 7, True),  # the night goes on on Tuesday
        ({"mon": "20:00-08:00"}, 0, 7, False),  # Sunday's night was not named
        ({"mon": "20:00-08:00"}, 1, 8, False),
        ({"sun": "22:00-06:00"}, 0, 5, True),  # from Sunday into Monday
        ({"mon": "00:00-24:00"}, 0, 23, True),
    ],
)
def test_hours(hours: dict[str, str], day: int, hour: int, free: bool) -> None:
    assert within(hours, MONDAY.replace(day=23 + day, hour=hour)) is free
    said = hindrance(When(mains_only=False, hours=hours), ThisComputer(Fake()), MONDAY)
    assert said in ("", "outside the hours that you set")


def test_the_real_machine_answers() -> None:
    computer = ThisComputer()
    assert isinstance(computer.on_mains(), bool)
    assert computer.idle_s() >= 0.0
    assert 0.0 <= computer.busy_percent() <= 100.0
    assert psutil.Process().name().lower().removesuffix(".exe") in computer.programs()


def test_facts_name_nobody_and_can_be_refused(fake: Fake) -> None:
    settings = Settings("h", "a:1", "ann", when=When(hours={"mon": "20:00-08:00"}))
    told = facts(settings, fake)
    assert told["cores"] == 4
    assert told["hours"] == {"mon": "20:00-08:00"}
    assert "ann" not in str(told)
    assert facts(Settings("h", "a:1", "ann", share="nothing"), fake) == {}
