from __future__ import annotations

import errno
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soak import examples, in_soak, rounds
from wsipipe.errors import OutputError, UsageError
from wsipipe.leases import holder as holders
from wsipipe.leases import leases
from wsipipe.leases.folder import evict, look_at
from wsipipe.leases.holder import UNREADABLE, Holder, this_process
from wsipipe.leases.lease import BEAT_SECONDS, HEART, PATIENCE_SECONDS, Lease
from wsipipe.leases.leases import Leases

TWICE_A_DAY = 43_200.0
SOON_SECONDS = 60  # how long anything real may take before a test gives up; nothing here takes a tenth of it


class FakeClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@contextmanager
def no_thread() -> Iterator[None]:
    """Run without the thread: only the test makes heartbeats."""
    with patch.object(HEART, "add"), patch.object(HEART, "remove"):
        yield


@pytest.fixture
def by_hand() -> Iterator[None]:
    with no_thread():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "case-17.zarr.lease"


ELSEWHERE = Holder("node-7", "node-7 another-boot pid:[4026531836]", 1234, 99, "ab" * 8, PATIENCE_SECONDS)


def plant(path: Path, holder: Holder) -> Path:
    """Make the lease of a holder that does not exist. Returns its file."""
    path.mkdir()
    file = path / f"{holder.token}.json"
    file.write_bytes(holder.written())
    return file


def taken(found: Lease | Holder) -> Lease:
    assert isinstance(found, Lease), f"held by {found}"
    return found


def held(found: Lease | Holder) -> Holder:
    assert isinstance(found, Holder), "taken, and should not have been"
    return found


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for never came"
        time.sleep(0.002)


# ---------------------------------------------------------------------------------------------- one process


def test_a_free_lease_is_taken_and_the_next_gets_its_holder(path: Path) -> None:
    with taken(Leases().take(path)) as lease:
        other = held(Leases().take(path))
        assert other.token == lease.holder.token
        assert str(other) == f"pid {os.getpid()} on {os.uname().nodename}"
        assert not lease.lost


def test_a_released_lease_is_free_and_leaves_no_file(path: Path) -> None:
    first = taken(Leases().take(path))
    first.release()
    assert left_in(path.parent) == []
    with taken(Leases().take(path)):
        first.release()
        held(Leases().take(path))
    assert left_in(path.parent) == []
    assert not first.lost


def test_an_exception_releases_too(path: Path) -> None:
    with pytest.raises(RuntimeError, match="the network"), taken(Leases().take(path)):
        raise RuntimeError("the network")
    assert left_in(path.parent) == []


def test_leases_of_several_slides_do_not_meet(tmp_path: Path) -> None:
    mine = Leases()
    names = ["case-1.zarr.lease", "case-1.zarr.lease.zarr.lease", "case-17.zarr.lease"]
    all_of_them = [taken(mine.take(tmp_path / name)) for name in names]
    for lease in all_of_them:
        lease.release()
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("offset", [0.0, 1e7, -1e7])
@pytest.mark.parametrize("written", [0.0, 4e9])  # the file's times: 1970 and 2096
def test_a_silent_holder_elsewhere_is_overtaken_after_patience_and_not_a_moment_earlier(
    path: Path, offset: float, written: float
) -> None:
    file = plant(path, ELSEWHERE)
    os.utime(file, (written, written))
    os.utime(path, (written, written))
    clock = FakeClock(offset)
    mine = Leases(clock=clock)
    assert held(mine.take(path)) == ELSEWHERE
    for _ in range(9):
        clock.now += PATIENCE_SECONDS / 10
        assert str(held(mine.take(path))) == "pid 1234 on node-7"
    clock.now += PATIENCE_SECONDS / 10 - 0.001
    held(mine.take(path))
    clock.now += 0.001
    taken(mine.take(path)).release()
    assert left_in(path.parent) == []


@pytest.mark.usefixtures("by_hand")
def test_the_longer_patience_of_the_two_is_waited_for(path: Path) -> None:
    for theirs, ours in ((600.0, 60.0), (60.0, 600.0)):
        plant(path, replace(ELSEWHERE, patience=theirs))
        clock = FakeClock()
        mine = Leases(patience=ours, clock=clock)
        held(mine.take(path))
        clock.now = 599.0
        held(mine.take(path))
        clock.now = 600.0
        taken(mine.take(path)).release()


@pytest.mark.usefixtures("by_hand")
def test_a_live_holder_is_never_overtaken(path: Path) -> None:
    holder_clock, clock = FakeClock(5e5), FakeClock()
    lease = taken(Leases(clock=holder_clock).take(path))
    mine = Leases(clock=clock)
    beats = []
    for _ in range(100):
        beats.append(held(mine.take(path)).beat)
        for both in (holder_clock, clock):
            both.now += PATIENCE_SECONDS - BEAT_SECONDS
        lease.renew()
        assert not lease.lost
    assert beats == list(range(100))


@pytest.mark.usefixtures("by_hand")
def test_who_looks_once_in_twelve_hours_does_not_take_a_live_holder_for_dead(path: Path) -> None:
    lease, clock = taken(Leases(clock=FakeClock()).take(path)), FakeClock()
    mine = Leases(clock=clock)
    for _ in range(20):
        held(mine.take(path))
        clock.now += TWICE_A_DAY
        lease.renew()
    held(mine.take(path))
    clock.now += TWICE_A_DAY
    taken(mine.take(path))


@pytest.mark.usefixtures("by_hand")
def test_a_disk_that_hangs_makes_nobody_dead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(path, ELSEWHERE)
    clock, look = FakeClock(), leases.look_at
    mine = Leases(clock=clock)

    def hanging(path: Path) -> Any:
        found = look(path)
        clock.now += 10 * PATIENCE_SECONDS  # the answer is as old as this when it comes
        return found

    with monkeypatch.context() as slow:
        slow.setattr(leases, "look_at", hanging)
        held(mine.take(path))
        held(mine.take(path))
    clock.now += PATIENCE_SECONDS
    taken(mine.take(path))


@pytest.mark.usefixtures("by_hand")
def test_a_holder_that_is_one_beat_from_being_overtaken_has_lost_the_lease_until_it_regains_it(path: Path) -> None:
    clock = FakeClock()
    lease = taken(Leases(clock=clock).take(path))
    clock.now = 30.0
    lease.renew()
    clock.now = 30.0 + PATIENCE_SECONDS - BEAT_SECONDS
    assert not lease.lost
    before = lease.holder.token
    clock.now += 0.001
    assert lease.lost
    assert not lease.gone
    assert lease.regain()
    assert not lease.lost
    assert left_in(path) == [f"{lease.holder.token}.json"] != [f"{before}.json"]
    assert Holder.read((path / f"{lease.holder.token}.json").read_bytes()).token == lease.holder.token
    clock.now += PATIENCE_SECONDS
    lease.release()
    assert lease.lost, "it was lost before that"
    assert left_in(path.parent) == []


@pytest.mark.usefixtures("by_hand")
def test_whoever_waited_for_a_holder_that_regains_its_lease_waits_anew_and_cannot_evict_it(path: Path) -> None:
    clock = FakeClock()
    lease = taken(Leases(clock=clock).take(path))
    mine = Leases(clock=clock)
    held(mine.take(path))
    seen = next(iter(look_at(path)))
    clock.now += PATIENCE_SECONDS
    assert lease.regain()
    evict(path, seen)  # judged before, and late
    held(mine.take(path))
    assert not lease.lost
    clock.now += PATIENCE_SECONDS
    taken(mine.take(path))
    assert not lease.regain()
    assert lease.gone


@pytest.mark.usefixtures("by_hand")
def test_a_lease_that_was_released_in_time_stays_one_that_was_not_lost(path: Path) -> None:
    clock = FakeClock()
    lease = taken(Leases(clock=clock).take(path))
    lease.release()
    clock.now += TWICE_A_DAY
    assert not lease.lost


@pytest.mark.usefixtures("by_hand")
def test_a_holder_that_was_overtaken_finds_out_and_harms_nobody(path: Path) -> None:
    old = taken(Leases(clock=FakeClock()).take(path))  # a clock that stands: as of a machine that was asleep
    clock = FakeClock()
    mine = Leases(clock=clock)
    held(mine.take(path))
    clock.now += PATIENCE_SECONDS
    new = taken(mine.take(path))
    before = {p: p.read_bytes() for p in path.iterdir()}
    assert not old.lost  # it has had no way to know
    old.renew()
    assert old.lost
    old.renew()
    old.release()
    assert {p: p.read_bytes() for p in path.iterdir()} == before
    new.renew()
    assert not new.lost
    new.release()
    assert left_in(path.parent) == []


@pytest.mark.usefixtures("by_hand")
def test_a_loss_that_the_thread_finds_while_the_holder_asks_is_not_forgotten(path: Path) -> None:
    meanwhile: list[Callable[[], None]] = []

    def clock() -> float:
        while meanwhile:
            meanwhile.pop()()
        return 0.0

    lease = taken(Leases(clock=clock).take(path))
    (path / f"{lease.holder.token}.json").unlink()
    meanwhile.append(lease.renew)
    assert lease.lost


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("what", ["file", "folder", "other file", "parent"])
def test_a_lease_that_somebody_deletes_is_lost_and_does_not_come_back(tmp_path: Path, what: str) -> None:
    path = tmp_path / "out" / "case-17.zarr.lease"
    path.parent.mkdir()
    lease = taken(Leases(clock=FakeClock()).take(path))
    (path / f"{lease.holder.token}.json").unlink()
    if what != "file":
        path.rmdir()
    if what == "other file":
        path.touch()
    if what == "parent":
        path.parent.rmdir()
    before = left_in(tmp_path)
    lease.renew()
    assert lease.lost
    assert left_in(tmp_path) == before


@pytest.mark.usefixtures("by_hand")
def test_a_disk_that_takes_no_beat_costs_the_lease_after_patience_and_not_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    lease = taken(Leases(clock=clock).take(path))
    mine = Leases(clock=clock)
    seen = [held(mine.take(path))]

    def full(file: Path, *_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    for _ in range(2):  # a beat or two may fail
        with monkeypatch.context() as broken:
            broken.setattr(Path, "open", full)
            lease.renew()
        clock.now += BEAT_SECONDS
        assert not lease.lost
        lease.renew()
        seen.append(held(mine.take(path)))
    assert len({holder.beat for holder in seen}) == 3
    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", full)
        for _ in range(5):  # until a beat before patience is over, and not a moment longer
            clock.now += BEAT_SECONDS
            lease.renew()
            assert not lease.lost
    clock.now += 0.001
    assert lease.lost
    held(mine.take(path))
    clock.now += BEAT_SECONDS
    taken(mine.take(path))


@pytest.mark.usefixtures("by_hand")
def test_a_beat_that_was_written_and_then_failed_does_not_look_like_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = taken(Leases(clock=FakeClock()).take(path))
    file, real = path / f"{lease.holder.token}.json", Path.open

    @contextmanager
    def opened(*args: Any, **options: Any) -> Iterator[Any]:
        with real(*args, **options) as file:
            yield file
        raise OSError(errno.EIO, "as NFS may say when a file is closed")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", opened)
        lease.renew()
    unsure = file.read_bytes()
    lease.renew()
    assert file.read_bytes() != unsure


# ------------------------------------------------------------------------------------------- what is in a file

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.builds(Holder, TEXT, TEXT, st.integers(1, 2**31 - 1), st.integers(), TEXT, st.floats(0.1, 1e9)), st.data())
def test_a_holder_is_read_as_it_was_written_and_torn_anywhere_it_is_nobody(holder: Holder, data: st.DataObject) -> None:
    written = holder.written()
    assert Holder.read(written) == holder
    assert Holder.read(written[: data.draw(st.integers(0, len(written) - 2))]) == UNREADABLE


@given(st.binary(max_size=200))
def test_no_content_is_an_error(content: bytes) -> None:
    assert Holder.read(content) == UNREADABLE


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        ELSEWHERE.written()[:40],
        b"\xff\xfe\x00",
        b"null",
        b"[" * 4000,
        b"x" * 10_000,
        b'{"pid": 12}',
        replace(ELSEWHERE, pid=-1).written(),
        replace(ELSEWHERE, pid=2**70).written(),
        replace(ELSEWHERE, patience=float("inf")).written(),
        replace(ELSEWHERE, patience=float("nan")).written(),
        replace(ELSEWHERE, patience="long").written(),  # type: ignore[arg-type]
    ],
    ids=lambda content: repr(content[:12]),
)
@pytest.mark.parametrize("where", ["in the folder", "in its place"])
def test_a_file_that_says_nothing_is_a_silent_holder(path: Path, content: bytes, where: str) -> None:
    if where == "in the folder":
        path.mkdir()
    (path / "x.json" if path.is_dir() else path).write_bytes(content)
    clock = FakeClock()
    mine = Leases(clock=clock)
    assert str(held(mine.take(path))) == "somebody whose lease cannot be read"
    clock.now = PATIENCE_SECONDS - 0.001
    held(mine.take(path))
    clock.now = PATIENCE_SECONDS
    taken(mine.take(path)).release()
    assert left_in(path.parent) == []


def test_a_foreign_file_evicted_by_another_who_holds_the_lease_since_is_not_an_error(path: Path) -> None:
    with taken(Leases().take(path)) as lease:
        evict(path, path)
        assert left_in(path) == [f"{lease.holder.token}.json"]


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("to", ["a folder", "nothing", "itself"])
def test_a_link_in_place_of_a_lease_is_replaced_and_what_it_leads_to_stays(path: Path, to: str) -> None:
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "mine.json").write_text("mine")
    path.symlink_to({"a folder": "elsewhere", "nothing": "gone", "itself": path}[to])
    taken(Leases().take(path)).release()
    assert left_in(path.parent) == ["elsewhere", "elsewhere/mine.json"]


def test_an_empty_folder_is_free(path: Path) -> None:
    path.mkdir()
    taken(Leases().take(path)).release()
    assert left_in(path.parent) == []


@pytest.mark.usefixtures("by_hand")
def test_a_dead_lease_that_cannot_be_removed_is_an_output_error(path: Path) -> None:
    (path / "holiday").mkdir(parents=True)
    clock = FakeClock()
    mine = Leases(clock=clock)
    held(mine.take(path))
    clock.now = PATIENCE_SECONDS
    with pytest.raises(OutputError, match=r"case-17\.zarr\.lease/holiday, .* cannot be removed: .*; remove it"):
        mine.take(path)


# ---------------------------------------------------------------------------------------- the same machine or not


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_lease_of_a_dead_process_is_removed_and_that_of_a_living_one_stays(path: Path) -> None:
    leases.remove_if_dead(path)
    assert left_in(path.parent) == []
    here = this_process("cd" * 8, PATIENCE_SECONDS)
    plant(path, here)
    leases.remove_if_dead(path)
    assert left_in(path) == [f"{here.token}.json"]
    of_dead = path.with_name("case-18.zarr.lease")
    plant(of_dead, replace(here, pid=ended_process()))
    leases.remove_if_dead(of_dead)
    assert not of_dead.exists()


HALF_ENDED = """
import ctypes, os, sys, threading

def last_thread():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=last_thread).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # _exit(2) of this thread alone
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a first thread that ends alone is seen so on Linux only")
def test_a_killed_process_is_alive_until_its_last_thread_has_ended(path: Path) -> None:
    """Its first thread is gone while another is still in a write, such as to a disk that hangs."""

    def state() -> bytes:
        return Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]

    with subprocess.Popen([sys.executable, "-c", HALF_ENDED], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        started = holders.began(process.pid)
        assert started is not None
        holder = replace(this_process("cd" * 8, PATIENCE_SECONDS), pid=process.pid, started=started)
        plant(path, holder)
        wait_for(lambda: state() == b"Z")
        held(Leases().take(path))
        process.stdin.close()
        wait_for(lambda: holders.began(process.pid) == -1)
        taken(Leases().take(path)).release()


def test_whose_process_is_gone_or_has_another_time_of_birth_is_dead_at_once(path: Path) -> None:
    here = this_process("cd" * 8, PATIENCE_SECONDS)
    for dead in (replace(here, pid=ended_process()), replace(here, started=here.started - 1)):
        plant(path, dead)
        taken(Leases().take(path)).release()
    plant(path, here)
    held(Leases().take(path))


@pytest.mark.parametrize(
    ("here", "there", "dead"),
    [
        ("node-1 boot-1 pid:[1]", "node-1 boot-1 pid:[1]", True),
        ("node-1 boot-1 pid:[1]", "node-2 boot-1 pid:[1]", False),
        ("node-1 boot-1 pid:[1]", "node-1 boot-2 pid:[1]", False),
        ("node-1 boot-1 pid:[1]", "node-1 boot-1 pid:[2]", False),
        ("", "", False),  # neither could tell
    ],
)
def test_a_pid_says_nothing_where_it_may_be_a_number_of_another_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch, here: str, there: str, dead: bool
) -> None:
    monkeypatch.setattr(holders, "this_machine", lambda: here)
    plant(path, replace(ELSEWHERE, pid=ended_process(), machine=there))
    found = Leases().take(path)
    assert isinstance(found, Lease) == dead
    if isinstance(found, Lease):
        found.release()


@pytest.mark.skipif(sys.platform != "linux", reason="the namespaces of pids are Linux's")
def test_the_machine_names_host_boot_and_pid_namespace() -> None:
    machine = holders.this_machine()
    for part in (
        os.uname().nodename,
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        str(Path("/proc/self/ns/pid").readlink()),
    ):
        assert part in machine


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
def test_another_users_process_is_alive_although_it_may_not_be_signalled(
    path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    holder = this_process("cd" * 8, PATIENCE_SECONDS)
    plant(path, holder)

    def not_yours(*_: int) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "kill", not_yours)
    if hidden:  # by /proc's mount option hidepid
        monkeypatch.setattr(holders, "began", lambda _: None)
    held(Leases().take(path))


# -------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("where", ["a file", "nowhere", "a name too long"])
def test_a_folder_that_cannot_be_written_is_an_output_error_that_names_it(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    name = "x" * 250 if where == "a name too long" else "case-17.zarr.lease"
    path = tmp_path / name if where == "a name too long" else tmp_path / where / name
    before = left_in(tmp_path)
    with pytest.raises(OutputError, match=r"cannot be .*; make room, or use another -o") as refused:
        Leases().take(path)
    assert str(path) in str(refused.value)
    assert left_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written_is_an_output_error(path: Path) -> None:
    path.parent.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"case-17\.zarr\.lease cannot be created: Permission denied"):
            Leases().take(path)
    finally:
        path.parent.chmod(0o755)


def test_a_claim_that_worked_although_nfs_says_there_was_nothing_to_rename_is_a_lease(path: Path) -> None:
    rename = os.rename

    def answer_lost(*names: Any) -> None:  # the server did it, its answer was lost, and it was asked again
        rename(*names)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with patch.object(os, "rename", answer_lost):
        lease = taken(Leases().take(path))
    assert left_in(path) == [f"{lease.holder.token}.json"]
    lease.release()


def test_a_claim_that_is_swept_just_before_it_is_renamed_is_not_a_lease(path: Path) -> None:
    rename, emptied = os.rename, []

    def swept(claim: Path, path: Path) -> None:
        if not emptied:  # by a holder that was slow to release
            emptied.extend(claim.iterdir())
            emptied[0].unlink()
        rename(claim, path)

    with patch.object(os, "rename", swept):
        lease = taken(Leases().take(path))
    assert left_in(path) == [f"{lease.holder.token}.json"] != [emptied[0].name]
    lease.release()
    assert left_in(path.parent) == []


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("operation", [(Path, "iterdir"), (io, "open")], ids=lambda operation: str(operation[1]))
def test_what_another_machine_removed_is_gone_where_nfs_calls_it_stale(path: Path, operation: tuple[Any, str]) -> None:
    def stale(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    lease = taken(Leases().take(path))
    with patch.object(*operation, stale):
        assert look_at(path) == {}
        lease.renew()
    assert lease.lost == (operation == (io, "open"))
    lease.release()


OPERATIONS = [(os, "mkdir"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (Path, "iterdir"), (io, "open")]
"""Every file operation of a lease, as pathlib calls it."""


@contextmanager
def each_operation(before: Callable[[], None]) -> Iterator[None]:
    """Call ``before`` before every file operation."""

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            before()
            return real(*args, **options)

        return operation

    with ExitStack() as patches:
        for module, name in OPERATIONS:
            patches.enter_context(patch.object(module, name, wrapped(getattr(module, name))))
        yield


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
@pytest.mark.parametrize("dead", [False, True], ids=["free", "dead"])
def test_a_fault_at_any_step_of_taking_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, dead: bool
) -> None:
    monkeypatch.setattr(leases, "ended", lambda holder: holder.token == ELSEWHERE.token)
    monkeypatch.setattr(holders, "began", lambda _: 1)
    monkeypatch.setattr(holders, "this_machine", lambda: "")
    for step in range(20):
        if dead:
            plant(path, ELSEWHERE)
        before, operations = set(left_in(path.parent)), count()

        def fail(step: int = step, operations: Iterator[int] = operations) -> None:
            if next(operations) == step:
                raise fault

        found: Lease | Holder | None = None
        try:
            with each_operation(fail):
                found = Leases().take(path)
        except (KeyboardInterrupt, OutputError):
            assert set(left_in(path.parent)) <= before
        if isinstance(found, Lease):
            found.release()
        taken(Leases().take(path)).release()
        assert left_in(path.parent) == []
    assert next(operations) < step, "there are more steps than that"


def test_claims_of_killed_processes_go_with_the_next_release_and_nothing_else_does(path: Path) -> None:
    def claim(of: Path, content: bytes | None) -> Path:
        folder = of.with_name(f"{of.name}.{'ef' * 8}")
        folder.mkdir()
        if content is not None:
            (folder / f"{'ef' * 8}.json").write_bytes(content)
        return folder

    ours = claim(path, ELSEWHERE.written())
    others = [claim(path.with_name("case-1.zarr.lease"), b""), claim(path.with_name(f"{path.name}.lease"), None)]
    mine = path.with_name(f"{path.name}.notes")
    mine.touch()
    taken(Leases().take(path)).release()
    assert not ours.exists()
    assert sorted(path.parent.iterdir()) == sorted([*others, mine])


def test_patience_of_less_than_three_beats_is_refused() -> None:
    Leases(patience=30, beat=10)
    for patience, beat in ((29.9, 10.0), (0.0, 0.0), (60.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(UsageError, match="give at least"):
            Leases(patience=patience, beat=beat)


# ------------------------------------------------------------------------------------------------- the thread


def heartbeat_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsipipe leases"]


def test_one_thread_renews_all_leases_and_ends_with_the_last(tmp_path: Path) -> None:
    mine, others = Leases(patience=SOON_SECONDS, beat=0.01), Leases()
    paths = [tmp_path / f"case-{i}.zarr.lease" for i in range(5)]
    all_of_them = [taken(mine.take(path)) for path in paths]
    (thread,) = heartbeat_threads()
    assert thread.daemon
    for path in paths:
        wait_for(lambda path=path: held(others.take(path)).beat > 3)
    for lease in all_of_them:
        assert not lease.lost
        lease.release()
    thread.join(SOON_SECONDS)
    assert heartbeat_threads() == []
    again = taken(mine.take(paths[0]))
    wait_for(lambda: held(others.take(paths[0])).beat > 3)
    again.release()


def test_a_lease_that_is_lost_does_not_keep_the_thread(path: Path) -> None:
    lease = taken(Leases(patience=SOON_SECONDS, beat=0.01).take(path))
    (thread,) = heartbeat_threads()
    (path / f"{lease.holder.token}.json").unlink()
    wait_for(lambda: lease.lost)
    thread.join(SOON_SECONDS)
    assert not thread.is_alive()
    lease.release()


# ---------------------------------------------------------------------------------------------- real processes

RUNNER = """
import sys, time
from pathlib import Path
from wsipipe.leases.lease import Lease
from wsipipe.leases.leases import Leases

patience, beat = map(float, sys.argv[1:])
mine, lease = Leases(patience=patience, beat=beat), None
for line in sys.stdin:
    command, *arguments = line.rstrip("\\n").split("\\t")
    answer = "ok"
    if command == "take":
        path, at = arguments
        time.sleep(max(0.0, float(at) - time.monotonic()))
        found = mine.take(Path(path))
        lease = found if isinstance(found, Lease) else None
        answer = "taken" if lease else "held"
    elif command == "lost":
        answer = str(lease.lost)
    elif command == "release":
        lease.release()
    print(answer, flush=True)
"""


class Runner:
    """A real process that takes leases on command; ended by its pid when the context is left."""

    def __init__(self, *, patience: float = PATIENCE_SECONDS, beat: float = BEAT_SECONDS) -> None:
        command = [sys.executable, "-c", RUNNER, str(patience), str(beat)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, *words: object) -> str:
        self.tell(*words)
        return self.answer()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("asked_for", [False, True], ids=["zombie", "gone"])
def test_a_killed_holder_on_this_machine_is_overtaken_at_once(path: Path, asked_for: bool) -> None:
    mine = Leases(clock=FakeClock())
    with Runner() as runner:
        assert runner.ask("take", path, 0) == "taken"
        held(mine.take(path))
        runner.signal(signal.SIGKILL)
        os.waitid(os.P_PID, runner.process.pid, os.WEXITED | (0 if asked_for else os.WNOWAIT))
        taken(mine.take(path)).release()
    assert left_in(path.parent) == []


def test_a_stopped_holder_that_is_overtaken_finds_out_and_harms_nobody(path: Path) -> None:
    clock = FakeClock()
    mine = Leases(clock=clock)
    with Runner(patience=SOON_SECONDS, beat=0.02) as runner:
        assert runner.ask("take", path, 0) == "taken"
        wait_for(lambda: held(mine.take(path)).beat > 2)
        runner.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, runner.process.pid, os.WSTOPPED)
        held(mine.take(path))
        clock.now += SOON_SECONDS - 0.001
        held(mine.take(path))
        clock.now += 0.001
        lease = taken(mine.take(path))
        runner.signal(signal.SIGCONT)
        wait_for(lambda: runner.ask("lost") == "True")
        assert runner.ask("release") == "ok"
        assert left_in(path) == [f"{lease.holder.token}.json"]
        lease.renew()
        assert not lease.lost
        assert runner.ask("take", path, 0) == "held"
        lease.release()
        assert runner.ask("take", path, 0) == "taken"


def test_a_holder_that_was_stopped_for_longer_than_patience_goes_on_with_a_lease_that_nobody_took(path: Path) -> None:
    with Runner(patience=0.4, beat=0.1) as runner:
        assert runner.ask("take", path, 0) == "taken"
        runner.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, runner.process.pid, os.WSTOPPED)
        before = left_in(path)
        time.sleep(0.5)
        runner.signal(signal.SIGCONT)
        wait_for(lambda: left_in(path) not in (before, []))
        wait_for(lambda: runner.ask("lost") == "False")
        assert runner.ask("release") == "ok"
    assert left_in(path.parent) == []


def test_of_eight_processes_at_the_same_instant_exactly_one_takes_a_free_lease_and_a_dead_one(tmp_path: Path) -> None:
    dead = replace(this_process("cd" * 8, PATIENCE_SECONDS), pid=ended_process())
    winners = set()
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner()) for _ in range(8)]
        for attempt in range(100):
            path = tmp_path / f"case-{attempt // 4}.zarr.lease"  # a name is used again, too
            if attempt % 2:
                plant(path, dead)
            at = time.monotonic() + 0.01
            for runner in runners:
                runner.tell("take", path, at)
            answers = [runner.answer() for runner in runners]
            assert sorted(answers) == ["held"] * 7 + ["taken"], attempt
            winner = runners[answers.index("taken")]
            winners.add(winner.process.pid)
            assert [p.name for p in path.parent.iterdir() if p.name.startswith(path.name)] == [path.name]
            assert len(left_in(path)) == 1
            assert winner.ask("release") == "ok"
            assert left_in(tmp_path) == []
    assert len(winners) > 1  # else they did not contend


CHURN = """
import fcntl, sys, time
from pathlib import Path
from wsipipe.leases.lease import Lease
from wsipipe.leases.leases import Leases

path, witness, times = Path(sys.argv[1]), open(sys.argv[2], "r+b"), int(sys.argv[3])
mine = Leases()
while times:
    lease = mine.take(path)
    if isinstance(lease, Lease):
        try:
            fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("two hold it")
        time.sleep(0.001)
        fcntl.flock(witness, fcntl.LOCK_UN)
        if lease.lost:
            sys.exit("lost while alive")
        lease.release()
        times -= 1
    time.sleep(0.0005)
"""


def test_processes_that_take_release_and_are_killed_at_any_moment_never_hold_it_two_at_once(path: Path) -> None:
    witness, chance = path.parent / "witness", random.Random(17)
    witness.touch()

    def start(times: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CHURN, path, witness, str(times)], stderr=subprocess.PIPE)

    steady, killed = [start(60), start(60)], []
    try:
        while any(process.poll() is None for process in steady):
            killed.append(start(10**9))
            time.sleep(0.1 + chance.random() / 10)
            os.kill(killed[-1].pid, signal.SIGKILL)
    finally:
        said = {}
        for process in (*steady, *killed):
            process.kill()
            said[process] = process.communicate()[1]
    assert set(said.values()) == {b""}
    assert [process.returncode for process in steady] == [0, 0]
    taken(Leases().take(path)).release()
    assert left_in(path.parent) == ["witness"]


FORKED = """
import os, sys, time, threading
from pathlib import Path
from wsipipe.leases.leases import Leases

path = Path(sys.argv[1])
lease = Leases(patience=60, beat=0.01).take(path)
if os.fork():
    time.sleep(60)
with lease:
    own = Leases(patience=60, beat=0.01).take(path.with_name("case-18.zarr.lease"))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_neither_releases_nor_renews_its_parents_lease(path: Path) -> None:
    others = Leases()
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        try:
            assert held(others.take(path)).pid == parent.pid
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            before = {p: p.read_bytes() for p in path.iterdir()}
            beat = held(others.take(path.with_name("case-18.zarr.lease"))).beat
            wait_for(lambda: held(others.take(path.with_name("case-18.zarr.lease"))).beat > beat + 3)
            assert {p: p.read_bytes() for p in path.iterdir()} == before
            taken(others.take(path)).release()
        finally:
            os.kill(child, signal.SIGKILL)


# --------------------------------------------------------------------------- every step in an order that is chosen


class Crash(BaseException):
    """The process is gone: not even its `finally` blocks run."""


class Call(threading.Thread):
    """A call that stops before each of its file operations, until `step` lets it go on."""

    def __init__(self, process: Process, function: Callable[[], Lease | Holder | None]) -> None:
        super().__init__(daemon=True)
        self.process, self.function = process, function
        self.result: Lease | Holder | None = None
        self.error: BaseException | None = None
        self.crashed = self.done = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            self.result = self.function()
        except BaseException as err:
            self.error = err
        self.done = True
        self._stopped.release()

    def step(self) -> None:
        self._go.release()
        self._stopped.acquire()

    def crash(self) -> None:
        self.crashed = True
        while not self.done:
            self.step()
        self.join()

    def pause(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self.crashed:
            raise Crash


class Process:
    """A runner with a clock of its own, which goes one step at a time."""

    def __init__(self, world: World, offset: float) -> None:
        self.leases = Leases(clock=lambda: world.now + offset)
        self.tokens: list[str] = []
        self.lease: Lease | None = None
        self.call: Call | None = None
        self.releasing = False

    @property
    def writes(self) -> bool:
        """Whether it would write if it went on now; a copy is asked, because a stopped process does not ask."""
        return self.lease is not None and not self.releasing and not copy(self.lease).lost

    def step(self, world: World, *, release: bool) -> None:
        """Go on with the current call, or begin one: take the lease if there is none, release it if gone, or renew."""
        if self.call is None:
            if self.lease is None:
                self.call = Call(self, lambda: self.leases.take(world.path))
            elif release or self.lease.gone:
                self.releasing, self.call = True, Call(self, self.lease.release)
            else:
                self.call = Call(self, self.lease.renew)
        self.call.step()
        if self.call.done:
            self.call.join()
            if self.call.error:
                raise self.call.error
            if isinstance(self.call.result, Lease):
                self.lease = self.call.result
            if self.releasing:
                self.lease, self.releasing = None, False
            self.call = None


class World:
    """Processes that share a folder, and the only clock that is right."""

    def __init__(self, folder: Path, processes: int, *, one_machine: bool) -> None:
        self.path, self.now, self.one_machine = folder / "case-17.zarr.lease", 0.0, one_machine
        self.dead: set[str] = set()
        self.processes = [Process(self, 86_400.0 * i) for i in range(processes)]

    def crash(self, who: int) -> None:
        process = self.processes[who]
        if process.call:
            process.call.crash()
        self.dead |= set(process.tokens) | ({process.lease.holder.token} if process.lease else set())
        self.processes[who] = Process(self, -86_400.0 * who)

    def ended(self, holder: Holder) -> bool:
        return self.one_machine and holder.token in self.dead

    @contextmanager
    def running(self) -> Iterator[None]:
        def pause() -> None:
            call = threading.current_thread()
            if isinstance(call, Call):
                call.pause()

        def this_process(token: str, patience: float) -> Holder:
            call = threading.current_thread()
            if isinstance(call, Call):
                call.process.tokens.append(token)
            return Holder("node", "", os.getpid(), 1, token, patience)

        def open_and_stop(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            opened = real_open(file, mode, *args, **options)
            if "+" in mode:  # a beat may stop between opening its file and writing it
                try:
                    pause()
                except Crash:
                    opened.close()
                    raise
            return opened

        real_open = io.open
        with (
            no_thread(),
            patch.object(leases, "this_process", this_process),
            patch.object(leases, "ended", self.ended),
            patch.object(io, "open", open_and_stop),
            each_operation(pause),
        ):
            try:
                yield
            finally:
                for who in range(len(self.processes)):
                    self.crash(who)


Action = tuple[str, int, int]
"""The action, the process that it happens to, and its number of steps (of waiting: beats)."""


def play(actions: list[Action], *, one_machine: bool) -> None:
    """Play ``actions``: two never hold the lease at once, and once all are dead another can take it."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), 3, one_machine=one_machine)
        with world.running():
            for kind, who, count in actions:
                if kind == "wait":
                    world.now += count * BEAT_SECONDS
                elif kind == "crash":
                    world.crash(who)
                else:
                    for _ in range(count):
                        world.processes[who].step(world, release=kind == "release")
                        assert sum(process.writes for process in world.processes) <= 1
            for who in range(3):
                world.crash(who)
            last = Leases(clock=lambda: world.now)
            found = last.take(world.path)
            if isinstance(found, Holder):
                world.now += PATIENCE_SECONDS
                found = last.take(world.path)
            taken(found).release()
        assert left_in(Path(folder)) == []


ALL = 12  # steps: more than taking or releasing has


@pytest.mark.parametrize("every", rounds(6, 1))
@pytest.mark.parametrize("third", ["takes and releases", *in_soak("takes")])
@pytest.mark.parametrize("begin", ["free", "dead", "being released", "silent"])
def test_of_three_processes_two_may_stop_at_any_step_and_never_do_two_hold_it(
    begin: str, third: str, every: int
) -> None:
    takes: list[Action] = [("go", 2, ALL)] + ([("release", 2, ALL)] if third == "takes and releases" else [])
    before: dict[str, list[Action]] = {
        "free": [],
        "dead": [("go", 0, ALL), ("crash", 0, 1)],
        "being released": [("go", 0, ALL)],
        "silent": [("go", 0, ALL), ("go", 1, 3), ("go", 2, 3), ("wait", 0, 6)],
    }
    first = "release" if begin == "being released" else "go"
    for one, other in product(range(10), range(0, 10, every)):
        stopped: list[Action] = [(first, 0, one), ("go", 1, other)]
        rest: list[Action] = [("go", 1, ALL), ("go", 0, ALL)]
        play(before[begin] + stopped + takes + rest, one_machine=True)


BURST = st.tuples(st.just("go"), st.integers(0, 2), st.integers(1, ALL))
ACTION = st.one_of(
    BURST,
    BURST,
    BURST,
    st.tuples(st.just("release"), st.integers(0, 2), st.integers(1, ALL)),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([1, 5, 6])),  # beats; the patience is six
    st.tuples(st.just("crash"), st.integers(0, 2), st.just(1)),
)


@settings(max_examples=examples(100))
@given(st.lists(ACTION, min_size=5, max_size=40), st.booleans())
def test_in_whatever_order_steps_stops_and_crashes_come_never_two_hold_it(
    actions: list[Action], one_machine: bool
) -> None:
    play(actions, one_machine=one_machine)
