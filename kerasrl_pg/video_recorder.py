"""Videos written frame by frame: whole, or not there at all."""

from __future__ import annotations

import os
import pathlib
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np

from kerasrl_pg.checks import is_integer

LEGIBLE_HEIGHT = 400
"""Pixels. Frames that are lower (an Atari screen has 210) are enlarged by a whole factor to about this."""
DEFAULT_FPS = 30


class VideoRecorder:
    """Writes a video; as a context manager, so that it ends well.

    Args:
        path: a file that does not exist yet, ending in .mp4 or .gif. It appears when the block has ended without an
            error, and not at all otherwise.
        fps: frames per second.
        size: (width, height) in pixels; None for that of the frames, enlarged if they are tiny. Cut to even numbers.

    Raises:
        FileExistsError: `path` exists.
        ImportError: the extra `video` is not installed.
        ValueError: the suffix is neither .mp4 nor .gif, `fps` or `size` is not positive, or nothing was recorded.

    Example:
        >>> import tempfile
        >>> env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with VideoRecorder(f"{directory}/random.gif", fps=10, size=(300, 200)) as video:
        ...         observation, info = env.reset(seed=0)
        ...         video.capture(env)
        ...         for _ in range(5):
        ...             step = env.step(env.action_space.sample())
        ...             video.capture(env)
        ...     video.path.exists(), video.frames
        (True, 6)
    """

    def __init__(self, path: str | os.PathLike, *, fps: float = DEFAULT_FPS, size: tuple[int, int] | None = None):
        check_video_path(path)
        if not isinstance(fps, int | float | np.number) or not fps > 0:
            raise ValueError(f"fps must be positive, got {fps!r}")
        if size is not None and (np.shape(size) != (2,) or not all(is_integer(side) for side in size)):
            raise ValueError(f"size must be (width, height), integers that are both positive, got {size!r}")
        self.path = pathlib.Path(path)
        self.frames = 0
        """How many were written."""
        self._fps, self._size = fps, size
        self._unfinished = self.path.with_name(f".unfinished-{self.path.name}")
        self._writer: Any = None

    def __enter__(self) -> VideoRecorder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = _open_writer(self._unfinished, self._fps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
            if kind is None and not self.frames:
                raise ValueError(f"nothing was recorded for {self.path}")
            if kind is None:
                self._unfinished.rename(self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)

    def capture(self, env: gymnasium.Env) -> None:
        """Append what an environment shows now; ValueError as `rendered_frame` raises it."""
        self.add(rendered_frame(env))

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, [height, width, 3] uint8; all of a video have one size."""
        if self._writer is None:
            raise RuntimeError("a VideoRecorder records within a with statement")
        self._writer.append_data(_resize(frame, self._size))
        self.frames += 1


def rendered_frame(env: gymnasium.Env) -> np.ndarray:
    """What an environment shows now, [height, width, 3] uint8.

    Raises:
        ValueError: `env` was not made with `render_mode="rgb_array"`, or renders something else than a frame.
    """
    if env.render_mode != "rgb_array":
        raise ValueError(f'env must be made with render_mode="rgb_array", got {env.render_mode!r}')
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = f"{frame.dtype} numbers" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"env must render one frame as an array of uint8, it rendered {kind}")
    return frame


def check_video_path(path: str | os.PathLike) -> None:
    """Raise what a recorder would, without recording: before a long training, for example.

    Raises:
        FileExistsError: `path` exists.
        ImportError: the extra `video` is not installed.
        ValueError: the suffix is neither .mp4 nor .gif.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"a video's path must end in .mp4 or .gif, got {str(path)!r}")
    if path.exists():
        raise FileExistsError(f"{path} exists already: choose another path, or remove it first")
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise ImportError('recording needs the extra "video" (from a clone: pip install ".[video]")') from error


def _open_writer(path: pathlib.Path, fps: float) -> Any:
    import imageio

    if path.suffix == ".gif":
        # Browsers slow frames of less than 20 milliseconds down to a tenth of a second.
        return imageio.get_writer(path, duration=max(20.0, 1000 / fps), loop=0)
    # yuv420p is what every browser plays; it needs an even width and height.
    return imageio.get_writer(path, fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2, quality=8)


def _resize(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """[height, width, 3] at another size, cut to an even height and width."""
    if size is not None:
        from PIL import Image

        frame = np.asarray(Image.fromarray(frame).resize(size))
    else:
        factor = max(1, round(LEGIBLE_HEIGHT / frame.shape[0]))
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (length - length % 2 for length in frame.shape[:2])
    return frame[:height, :width]
