"""A volunteer's configuration."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fedhive.errors import UserError
from fedhive.join.settings import Limits, Settings, When, load, parse_span, save


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    settings = Settings(
        'ann\'s "hive"', "[::1]:9443", "ann", False, "nothing", ("/data/a b",), True, 3, 0.5,
        Limits(2, 0.5, 1.5, 0.1, 19, 1.0, 2.0, 30.0),
        When(True, 1.0, 50.0, False, {"mon": "20:00-08:00", "sat": "00:00-24:00"}, ("zoom",)),
    )  # fmt: skip
    save(path, settings)
    assert load(path) == settings
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    save(path, Settings("h", "a:1", "n"))
    assert load(path) == Settings("h", "a:1", "n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cpu_share = 1.0", "cpu_share = 2.0", "limits.cpu_share must be between 0.01 and 1"),
        ("cpu_share = 1.0", "cpushare = 1.0", "did you mean 'cpu_share'"),
        ("threads = 1", 'threads = "two"', "limits.threads must be int"),
        ("threads = 1", "threads = true", "limits.threads must be int"),
        ("sandbox = true", "sandbox = 1", "sandbox must be bool"),
        ('share = "facts"', 'share = "all"', 'share must be "facts" or "nothing"'),
        ("pause_for = []", 'pause_for = "zoom"', "must be a list of words"),
        ("[when.hours]", '[when.hours]\nmonday = "1:00-2:00"', "days are called mon"),
        ("[when.hours]", '[when.hours]\nmon = "8-9"', "no span of hours"),
        ("[when]", "[when", "config"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "config.toml"
    save(path, Settings("h", "a:1", "n"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fedhive join INVITATION"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "20:00", "20:00-25:00", "a-b", "8:00-8:00", "-1:00-2:00"])
def test_spans_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="no span of hours"):
        parse_span(text)
