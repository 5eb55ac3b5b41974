"""The command as users meet it: exit statuses, one clear line, nothing finished ever lost."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import fedhive
from fedhive.cli import main
from fedhive.results import rundir
from fedhive.results.fields import ROUND_KEYS, SUMMARY_KEYS
from tests.conftest import GROUPS, TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd) -> Callable[..., SimpleNamespace]:
    """``cli(*words)``: the command in an empty folder; its status, output and error lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*words: str) -> SimpleNamespace:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(words)
        out, err = capfd.readouterr()
        return SimpleNamespace(code=stop.value.code, out=out, err=err.strip().splitlines())

    return run


def one_run(folder: Path) -> Path:
    [summary] = folder.glob("runs/*/*/summary.json")
    return summary.parent


def sha(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["model_sha256"])


# ---- what users get wrong ---------------------------------------------------------------------

MISTAKES = {
    "setting": ("roundz=3", "roundz: no such key in the configuration; did you mean 'rounds'?"),
    "group": ("modle=mlp", "modle: no such key in the configuration; did you mean 'model'?"),
    "choice": ("model=mpl", "model=mpl: no such choice; did you mean 'mlp'?; choices: convnet,"),
    "experiment": ("experiment=quickstrat", "no such choice; did you mean 'quickstart'?"),
    "option": ("client.batchsize=3", "client.batchsize: no such key in client; did you mean"),
    "no option": ("data.colour=3", "data.colour: no such key in data; known: classes, d, groups"),
    "added": ("+clinet=3", "clinet: no such key in the configuration; did you mean 'client'?"),
    "added option": ("+client.lrr=3", "client.lrr: SGD has no such option; did you mean 'lr'?"),
    "type": ("rounds=many", "rounds=many: Value 'many' of type 'str' could not be converted"),
    "option's type": ("client.lr=fast", "client.lr: input should be a valid number"),
    "range": ("rounds=0", "rounds must be between 1 and 1e+07, got 0"),
    "option's range": ("selection.k=0", "selection: k must be at least 1 (or null for all nodes)"),
    "syntax": ("rounds", "Error parsing override 'rounds'"),
    "folder": ("data=idx_folder data.folder=nowhere", "in nowhere: set data.folder to the folder"),
    "no folder": ("data=idx_folder", "Missing mandatory value: folder"),
    "table": ("data=csv_table data.path=no.csv data.label=y", "cannot read the table no.csv"),
    "target": ("client._target_=strategies.local.SDG", "has no 'SDG'; did you mean 'SGD'?"),
    "app": ("client_app=nowhere:app", "client_app: cannot load 'nowhere:app'"),
    "half a method": ("client=scaffold", "add combine=scaffold with strategy=hive"),
    "other half": ("combine=scaffold", "add client=scaffold"),
    "no effect": ("strategy=flower_fedavg server_opt=fedadam", "strategy FedAvg does not use"),
    "too few": ("strategy=flower_fedavg strategy.min_available_nodes=9", "wait for ever"),
    "no target": ("stop_at_target=true", "needs a target_accuracy"),
    "model": ("model=lenet", "choose another model, such as mlp"),
    "partition": ("nodes=2000", "cannot give 2000 clients 1 each"),
    "place": ("hydra.run.dir=/proc/nowhere", "cannot make the run directory /proc/nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(cli, tmp_path, mistake: str):
    words, line = MISTAKES[mistake]
    data = [word for word in TINY if not word.startswith("data") or "data=" not in words]
    done = cli("run", *data, *words.split())
    assert (done.code, done.out) == (2, "")
    [said] = done.err
    assert said.startswith("fedhive: ")
    assert line in said
    assert not list(tmp_path.glob("runs/*/*")), "what did not begin leaves no folder"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("rnu", "no command 'rnu'; did you mean 'run'?"),
        ("report", "usage: fedhive report RUN_DIR..."),
        ("report nowhere", "nowhere is not a directory"),
        ("report .", "no run in"),
        ("resume", "usage: fedhive resume RUN_DIR"),
        ("resume nowhere", "nowhere is not a directory"),
        ("resume .", "holds no run"),
        ("doctor now", "usage: fedhive doctor"),
    ],
)
def test_mistakes_of_other_commands(cli, words: str, line: str):
    done = cli(*words.split())
    assert (done.code, done.out) == (2, "")
    [said] = done.err
    assert said.startswith("fedhive: ")
    assert line in said


def test_a_used_folder_stays_as_it_is(cli, tmp_path):
    assert cli("run", *TINY, "hydra.run.dir=mine").code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = cli("run", *TINY, "hydra.run.dir=mine", "seed=3")
    assert done.code == 2
    assert "run directory mine is not empty" in done.err[0]
    assert "fedhive resume mine" in done.err[0]
    assert len(done.err) == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_two_runs_in_the_same_second(cli, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/fixed.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {run: {dir: 'runs/now'}}\n"
    )
    for _ in range(2):
        done = cli("run", "--config-dir", "conf", "--config-name", "fixed", *TINY)
        assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["now", "now-2"]


def test_our_own_mistakes_show_a_traceback(cli, monkeypatch):
    def broken(**_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("fedhive.doctor.examine", broken)
    done = cli("doctor")
    assert done.code == 1
    assert done.err[0].startswith("Traceback")
    assert done.err[-1] == "ZeroDivisionError: ours"


# ---- what it prints ---------------------------------------------------------------------------


def test_help_lists_every_group_and_setting(cli):
    done = cli("run", "--help")
    assert (done.code, done.err) == (0, [])
    for group in GROUPS - {"experiment"}:
        assert f"\n{group}: " in done.out
    assert "experiment: quickstart" in done.out
    assert "fedhive run experiment=quickstart" in done.out
    assert "\nrounds: 20" in done.out


def test_cfg_shows_the_composition_and_runs_nothing(cli, tmp_path):
    done = cli("run", "--cfg", "job", "experiment=quickstart", "rounds=7")
    assert (done.code, done.err) == (0, [])
    composed = yaml.safe_load(done.out)
    assert (composed["nodes"], composed["rounds"]) == (30, 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_usage(cli, words: list[str]):
    done = cli(*words)
    assert done.code == 0
    for command in ("run", "report", "resume", "doctor"):
        assert f"  fedhive {command}" in done.out


def test_version(cli):
    done = cli("--version")
    assert (done.code, done.out) == (0, f"fedhive {fedhive.__version__}\n")


def test_doctor(cli):
    done = cli("doctor")
    assert (done.code, done.err) == (0, [])
    for topic in ("fedhive", "Python", "torch", "flwr", "engine=ray", "data=fashion_mnist"):
        assert topic in done.out


def test_light_imports():
    """What `fedhive --version`, `--help` and a mistake cost: nothing heavy."""
    program = (
        "import sys, fedhive, fedhive.cli\n"
        "print([m for m in ('torch', 'flwr', 'hydra', 'numpy', 'rich') if m in sys.modules])\n"
        "try: fedhive.cli.main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'flwr', 'plotly', 'ray') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")


# ---- runs, reports, sweeps --------------------------------------------------------------------


def test_a_run_then_its_report_again(cli, tmp_path):
    done = cli("run", *TINY)
    assert (done.code, done.err) == (0, [])
    run = one_run(tmp_path)
    assert str(run / "report.html") in done.out.replace("\n", "")
    assert list(json.loads((run / "summary.json").read_text())) == list(SUMMARY_KEYS)
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [list(line) for line in rounds] == [list(ROUND_KEYS)] * 3
    assert {path.name for path in run.iterdir()} >= {
        ".hydra", "summary.json", "rounds.jsonl", "events.jsonl.gz", "checkpoint", "report.html",
    }  # fmt: skip
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert cli("report", str(run)).code == 0
    assert (run / "report.html").read_bytes() == page
    done = cli("resume", str(run))
    assert done.code == 0, "nothing is left to do, and that is fine"


def test_a_sweep_and_its_comparison(cli, tmp_path):
    folder = tmp_path / "some/where"
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(60)))
    data = ("data=csv_table", "data.path=some/where/t.csv", "data.label=y", "rounds=1")
    rest = [word for word in TINY if not word.startswith(("data", "rounds"))]
    assert cli("run", "-m", *data, *rest, "client.lr=0.1,0.2").code == 0
    [sweep] = tmp_path.glob("sweeps/*/*")
    jobs = sorted(path.parent.name for path in sweep.glob("*/summary.json"))
    start = "client.batch_size=8,client.lr=0."
    assert [name[: len(start) + 3] for name in jobs] == [f"0-{start}1", f"1-{start}2"]
    page = sweep / "comparison.html"
    assert page.is_file()
    page.unlink()
    done = cli("report", str(sweep))
    assert done.code == 0
    assert page.is_file()
    assert "client.lr=0.2" in done.out


def test_a_sweep_with_a_mistake(cli, tmp_path):
    done = cli("run", "-m", *TINY, "rounds=1", "selection.k=0,2")
    assert done.code == 2
    assert done.err[-1].startswith("fedhive: ")
    assert "k must be at least 1" in done.err[-1]
    assert "Traceback" not in "".join(done.err)


# ---- a full disk ------------------------------------------------------------------------------

LONG = (*TINY, "rounds=40")


class Quota(io.FileIO):
    """A file on a disk with little left; writes what fits, as real ones do."""

    left = 24_000

    def write(self, data) -> int:
        fits = min(len(data), max(0, Quota.left))
        if not fits and len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Quota.left -= fits
        return super().write(memoryview(data)[:fits])


def limited(monkeypatch) -> Callable[[], None]:
    def opener(path, mode, buffering=-1):
        file = Quota(path, mode.replace("b", ""))
        return file if buffering == 0 else io.BufferedWriter(file)

    monkeypatch.setattr(Quota, "left", 24_000)
    monkeypatch.setattr(rundir, "open", opener, raising=False)
    return lambda: monkeypatch.delattr(rundir, "open")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB, if we may have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_up_and_go_on(cli, run: Path, more_space: Callable[[], None]) -> None:
    done = cli("run", *LONG, f"hydra.run.dir={run}")
    assert (done.code, done.out) == (2, "")
    [line] = done.err
    assert line.startswith(f"fedhive: disk full while writing {run}/")
    assert f"'fedhive resume {run}'" in line
    kept = (run / "rounds.jsonl").read_text().splitlines()
    assert 2 <= len(kept) < 40
    more_space()
    assert cli("resume", str(run)).code == 0
    assert (run / "rounds.jsonl").read_text().splitlines()[: len(kept) - 1] == kept[:-1]
    assert cli("run", *LONG, "hydra.run.dir=whole").code == 0
    assert sha(run) == sha(Path("whole"))


def test_a_disk_that_fills_up(cli, tmp_path, monkeypatch):
    fill_up_and_go_on(cli, tmp_path / "run", limited(monkeypatch))


def test_a_real_disk_that_fills_up(cli, small_disk):
    remount = ["mount", "-o", "remount,size=64m", str(small_disk)]
    fill_up_and_go_on(cli, small_disk / "run", lambda: subprocess.run(remount, check=True))


def test_a_disk_that_is_full_already(cli, small_disk):
    with open(small_disk / "junk", "wb") as junk, contextlib.suppress(OSError):
        os.posix_fallocate(junk.fileno(), 0, os.statvfs(small_disk).f_bavail * 4096)
    done = cli("run", *TINY, f"hydra.run.dir={small_disk}/run")
    assert done.code == 2
    [line] = done.err
    assert "No space left" in line or "disk full" in line


# ---- interrupted ------------------------------------------------------------------------------

STALL = '''
import time
from pathlib import Path

class Stall:
    """Every machine stops in round 3 for as long as there is a file called `stall`."""

    def __call__(self, message, context, call_next):
        while message.content["config"]["server-round"] == 3 and Path("stall").exists():
            Path("stalled").touch()
            time.sleep(0.02)
        return call_next(message, context)
'''
STALL_YAML = """
_target_: attacks.infiltration.Infiltration
fraction: 1.0
behaviour: {_target_: stall.Stall}
"""
STALLING = (*TINY, "attack=stall", "rounds=4")


@pytest.fixture
def stalled(tmp_path, monkeypatch):
    """``stalled(signal, engine)``: status and error lines of a run that got it in round 3."""
    (tmp_path / "mine/attack").mkdir(parents=True)
    (tmp_path / "mine/attack/stall.yaml").write_text(STALL_YAML)
    (tmp_path / "stall.py").write_text(STALL)
    (tmp_path / "stall").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(number: signal.Signals, *words: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "fedhive", "run", "--config-dir", "mine", *STALLING]
        # A job in the background, as these tests may be, would pass on that it ignores Ctrl-C.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                [*command, *words, "hydra.run.dir=run"], cwd=tmp_path, stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)
        while not (tmp_path / "stalled").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, number)  # as a terminal does: workers get it too
        _, err = process.communicate(timeout=60)
        until = time.monotonic() + 20
        while _alive(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _alive(process.pid), "processes were left behind"
        (tmp_path / "stall").unlink()
        return process.returncode, err.strip().splitlines()

    return run


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_in_mid_round(stalled, cli, tmp_path):
    code, err = stalled(signal.SIGINT, "engine=pool", "engine.workers=2")
    assert code == 130
    assert err == [
        "go on with: fedhive resume " + str(tmp_path / "run"),
        "",
        "fedhive: interrupted",
    ]
    run = tmp_path / "run"
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "summary.json").read_text())["rounds"] == 2
    assert (run / "report.html").stat().st_size > 10_000
    assert cli("resume", "run").code == 0
    assert cli("run", "--config-dir", "mine", *STALLING, "hydra.run.dir=whole").code == 0
    assert sha(run) == sha(Path("whole"))


def test_killed_in_mid_round(stalled, cli, tmp_path):
    code, _ = stalled(signal.SIGKILL, "engine=local")
    assert code == -signal.SIGKILL
    run = tmp_path / "run"
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 2
    assert cli("report", "run").code == 0
    assert cli("resume", "run").code == 0
    assert cli("run", "--config-dir", "mine", *STALLING, "hydra.run.dir=whole").code == 0
    assert sha(run) == sha(Path("whole"))
