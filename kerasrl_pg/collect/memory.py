"""What large replays and rollouts take is said, and refused where it is not there, before it is taken."""

from __future__ import annotations

import pathlib

GIB = 2**30
MEMORY_INFORMATION = pathlib.Path("/proc/meminfo")


def check_replay_memory(nbytes: int, capacity: int, advice: str) -> None:
    """Print what a large replay takes, and raise before the machine begins to swap or to end processes.

    Args:
        nbytes: what will be taken, once the replay is full.
        capacity: observations that this is for.
        advice: what else the user can do about it.

    Raises:
        MemoryError: more than the machine has available. Where that is unknown (not Linux) nothing is checked.

    Example:
        >>> check_replay_memory(7 * GIB, capacity=1_000_000, advice="store each frame once: stack=4")  # doctest: +SKIP
        replay: 7.0 GiB once its 1,000,000 places are full
    """
    _check_available(nbytes, f"a replay of {capacity:,} places", f"lower replay_size{advice and f', or {advice}'}")
    if nbytes > GIB:
        print(f"replay: {nbytes / GIB:.1f} GiB once its {capacity:,} places are full")


def check_rollout_memory(nbytes: int, rollout_length: int, num_envs: int) -> None:
    """The same for a rollout of environments outside the graph.

    Args:
        nbytes: of the rollout.
        rollout_length: T.
        num_envs: N.

    Raises:
        MemoryError: more than the machine has available.

    Example:
        >>> check_rollout_memory(2 * GIB, rollout_length=256, num_envs=300)  # doctest: +SKIP
        rollouts: 2.0 GiB for 256 steps of 300 environments
    """
    what = f"a rollout of {rollout_length:,} steps of {num_envs:,} environments"
    _check_available(nbytes, what, "lower rollout_length or num_envs")
    if nbytes > GIB:
        print(f"rollouts: {nbytes / GIB:.1f} GiB for {rollout_length:,} steps of {num_envs:,} environments")


def available_memory() -> int | None:
    """Bytes that Linux says can be had without swapping; None elsewhere.

    Example:
        >>> bytes_available = available_memory()
        >>> bytes_available is None or bytes_available > 0
        True
    """
    if not MEMORY_INFORMATION.exists():
        return None
    for line in MEMORY_INFORMATION.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _check_available(nbytes: int, what: str, remedy: str) -> None:
    available = available_memory()
    if available is not None and nbytes > available:
        raise MemoryError(
            f"{what} takes {nbytes / GIB:.1f} GiB, and {available / GIB:.1f} GiB of memory are available: {remedy}"
        )
