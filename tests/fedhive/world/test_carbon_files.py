from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fedhive.errors import UserError
from fedhive.world.carbon_files import electricity_maps

EXPORT = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
    "Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage,Data Source\n"
)
NEWER = EXPORT.replace("(LCA)", "(Life cycle)").replace("Zone Id", "Zone id")
WIDE = "datetime_utc,FR,DE-LU\n"


def row(hour: str, zone: str = "FR", direct: str = "30", lca: str = "50") -> str:
    return f"{hour},France,France,{zone},{direct},{lca},90,entsoe.eu\n"


def wide(*hours: str) -> str:
    return WIDE + "".join(f"{h},{10 * i},{10 * i + 5}\n" for i, h in enumerate(hours))


HOURS = [f"2023-01-01 0{h}:00:00" for h in range(4)]


@pytest.mark.parametrize("header", [EXPORT, NEWER])
def test_as_exported(tmp_path: Path, header: str):
    file = tmp_path / "FR_2023_hourly.csv"
    file.write_text(header + row(HOURS[0]) + row(HOURS[1], direct="31", lca="51"))
    s = electricity_maps(str(file), account="life_cycle")
    assert (s.zones, s.account, s.hours) == (("FR",), "life_cycle", 2)
    assert s.slots("FR", 0, 2).tolist() == [50.0, 51.0]
    direct = electricity_maps(str(file), account="direct")
    assert direct.slots("FR", 0, 2).tolist() == [30.0, 31.0]


def test_wide_and_start_and_beyond(tmp_path: Path):
    file = tmp_path / "x.csv.gz"
    file.write_bytes(gzip.compress(wide(*HOURS).encode()))
    s = electricity_maps(str(file), account="life_cycle", start="2023-01-01T02:00", beyond="fail")
    assert (s.first_s, s.last_s) == (-7200.0, 7200.0)
    assert s.mean_g_per_kwh("DE-LU", 0.0, 7200.0) == 30.0
    with pytest.raises(UserError, match=r"carbon\.start=2024-01-01 is not in .* 2023-01-01 03:00"):
        electricity_maps(str(file), account="direct", start="2024-01-01")
    with pytest.raises(UserError, match="must be a date or hour"):
        electricity_maps(str(file), account="direct", start="soon")
    with pytest.raises(UserError, match="whole hour"):
        electricity_maps(str(file), account="direct", start="2023-01-01T00:30")


def test_a_folder_joins_years_and_takes_common_hours(tmp_path: Path):
    (tmp_path / "FR_2022.csv").write_text(EXPORT + row("2022-12-31 23:00:00", lca="1"))
    (tmp_path / "FR_2023.csv").write_text(EXPORT + row(HOURS[0], lca="2") + row(HOURS[1], lca="3"))
    (tmp_path / "GB_2023.csv").write_text(
        EXPORT + row(HOURS[0], "GB", lca="7") + row(HOURS[1], "GB", lca="8")
        + row(HOURS[2], "GB", lca="9")
    )  # fmt: skip
    s = electricity_maps(str(tmp_path), account="life_cycle")
    assert s.slots("FR", 0, s.hours).tolist() == [2.0, 3.0]
    assert s.slots("GB", 0, s.hours).tolist() == [7.0, 8.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (wide(HOURS[0], HOURS[2]), ":3: FR goes on at 2023-01-01 02:00, but 2023-01-01 01:00 is"),
        (wide(HOURS[0], HOURS[1], HOURS[1]), ":4: hour 2023-01-01 01:00 of FR is twice"),
        (wide(HOURS[1], HOURS[0]), ":3: hour 2023-01-01 00:00 of FR is out of order"),
        (wide("2023-01-01T00:00:00+01:00"), ":2: .* is not in UTC"),
        (wide(HOURS[0]).replace("_utc", ""), ":2: .* may be any zone's time"),
        (wide(HOURS[0]).replace("_utc", " (UTC+01:00)"), ":2: .* may be any zone's time"),
        (wide(HOURS[0]).replace("_utc", " UTC -3"), ":2: .* may be any zone's time"),
        (wide("2023-01-01 00:30:00"), ":2: .* is not a whole hour"),
        (wide("yesterday"), ":2: 'yesterday' is not a time"),
        (WIDE + f"{HOURS[0]},1,-2\n", ":2: DE-LU: -2 is not 0 to 3000"),
        (WIDE + f"{HOURS[0]},1,99999\n", ":2: DE-LU: 99999 is not 0 to 3000"),
        (WIDE + f"{HOURS[0]},nan,1\n", ":2: FR: nan is not 0 to 3000"),
        (WIDE + f"{HOURS[0]},,1\n", ":2: FR: no intensity"),
        (WIDE + f"{HOURS[0]},much,1\n", ":2: FR: 'much' is not a number"),
        (WIDE + f"{HOURS[0]},1\n", ":2: 2 cells, but the header has 3"),
        ("FR,DE\n1,2\n", ":1: no column of times"),
        ("datetime_utc,FR,FR\n", ":1: every column needs a zone's name"),
        ("", ":1: no column of times"),
        (WIDE, "holds no hour"),
        (EXPORT.replace("(LCA)", "(x)") + row(HOURS[0]), ":1: no column .*life cycle"),
        (EXPORT + row(HOURS[0], lca=""), ":2: no intensity"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, text: str, said: str):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        electricity_maps(str(file), account="life_cycle")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_zones_are_told_with_the_file(tmp_path: Path):
    columns, rows = tmp_path / "wide.csv", tmp_path / "rows.csv"
    columns.write_text(wide(HOURS[0]))
    rows.write_text(EXPORT + row(HOURS[0]))
    with pytest.raises(UserError, match=r"wide\.csv:1: no intensity for zone 'DE'; .*DE-LU, FR"):
        electricity_maps(str(columns), account="direct").slots("DE", 0, 1)
    with pytest.raises(UserError, match=r"rows\.csv: no intensity for zone 'GB'.*zones: FR"):
        electricity_maps(str(rows), account="direct").mean_g_per_kwh("GB", 0.0, 1.0)


def test_bad_choices(tmp_path: Path):
    with pytest.raises(UserError, match="there is no file"):
        electricity_maps(str(tmp_path / "none.csv"), account="direct")
    with pytest.raises(UserError, match=r"no \.csv"):
        electricity_maps(str(tmp_path), account="direct")
    with pytest.raises(UserError, match="life_cycle or direct"):
        electricity_maps(str(tmp_path), account="lca")  # type: ignore[arg-type]
    (tmp_path / "a.csv").write_text(EXPORT + row(HOURS[0]))
    (tmp_path / "b.csv").write_text(EXPORT + row(HOURS[1], "GB"))
    with pytest.raises(UserError, match="no hour in common"):
        electricity_maps(str(tmp_path), account="direct")


def test_marked_times_need_no_heading(tmp_path: Path):
    file = tmp_path / "x.csv"
    file.write_text("timestamp,FR\n2023-01-01T00:00:00Z,1\n2023-01-01T01:00:00+00:00,2\n")
    assert electricity_maps(str(file), account="direct").hours == 2
