"""What is too large for the machine is refused before anything is taken; what is merely large is said."""

import pytest

from kerasrl_pg.collect import memory
from kerasrl_pg.collect.memory import GIB, check_replay_memory, check_rollout_memory


@pytest.fixture(autouse=True)
def eight_gibibytes(tmp_path, monkeypatch):
    information = tmp_path / "meminfo"
    information.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {8 * 2**20} kB\n")
    monkeypatch.setattr(memory, "MEMORY_INFORMATION", information)


def test_a_rollout_must_fit(capsys):
    check_rollout_memory(GIB // 4, 256, 24)
    assert capsys.readouterr().out == ""
    check_rollout_memory(2 * GIB, 256, 300)
    assert capsys.readouterr().out == "rollouts: 2.0 GiB for 256 steps of 300 environments\n"
    with pytest.raises(MemoryError, match=r"of 256 steps of 400 .* takes 9.0 GiB, and 8.0 GiB .*: lower rollout_l"):
        check_rollout_memory(9 * GIB, 256, 400)


def test_a_replay_must_fit(capsys):
    check_replay_memory(7 * GIB, 1_000_000, "")
    assert capsys.readouterr().out == "replay: 7.0 GiB once its 1,000,000 places are full\n"
    with pytest.raises(MemoryError, match=r"of 1,000,000 places takes 9.0 GiB, .*: lower replay_size, or buy more"):
        check_replay_memory(9 * GIB, 1_000_000, "buy more")


def test_where_nobody_tells_what_is_available_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMORY_INFORMATION", tmp_path / "nothing")
    check_rollout_memory(10**15, 256, 10**6)
