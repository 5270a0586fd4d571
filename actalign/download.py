"""Where videos come from: a folder, or the web through yt-dlp, fetched once, with an answer to what servers do."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from actalign.console import InputError, StageError, log
from actalign.video import VideoError

YOUTUBE_URL = "https://www.youtube.com/watch?v={youtube_id}"
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
# H.264 decodes fastest; nothing beyond 720 lines is of use; a direct link to a file has no known height.
FORMAT = "bv[height<=720][vcodec^=avc1]/bv[height<=720]/b[height<=720]/bv/b"
RETRIES = 10  # of one piece of a file, by yt-dlp itself
ATTEMPTS = 4  # at one video that meets a passing error
LONGEST_PAUSE = 60  # s between two attempts, also where a server's Retry-After asks for more
REQUEST_PAUSE = 0.5  # s between two requests of one worker, which YouTube's limits reward
SOCKET_TIMEOUT = 20  # s without a byte

# What the extractors say, sorted by what it means for the run.
STOPPING = re.compile(r"confirm you.{0,3}re not a bot|rate-limited|Too Many Requests|HTTP Error 429", re.IGNORECASE)
GONE = re.compile(r"private video|video (is )?unavailable|has been removed|no longer available|"
                  r"account .{0,40}terminated|not available in your country|not made this video available|blocked it|"
                  r"HTTP Error (404|410|451)|unsupported URL", re.IGNORECASE)
LOCKED = re.compile(r"confirm your age|members.only|join this channel|login required|only available for registered",
                    re.IGNORECASE)


class Videos:
    """Where the samples' videos are: in a folder of the user's, or downloaded beside the output.

    folder      consulted first and never written to
    downloader  for what is not there; its files are removed once no clip needs them, unless `keep`
    """

    def __init__(self, folder, downloader, samples, keep=False, url_template=YOUTUBE_URL):
        self._folder = Path(folder)
        self._downloader = downloader
        self._keep = keep
        self._url_template = url_template
        self._needed = Counter(self._name(sample) for sample in samples)

    def path(self, sample):
        """The local file of a sample's video, downloaded if need be.

        Raises VideoError if there is none, StageError if the server stops all downloads.
        """
        path = self.local_path(sample)
        if path is not None:
            return path
        if sample.youtube_id is None and not is_url(sample.video):
            raise VideoError("no such file")
        url = youtube_url(sample.youtube_id, self._url_template) if sample.youtube_id is not None else sample.video
        require_web(url)
        return self._downloader.fetch(self._name(sample), url)

    def local_path(self, sample):
        """The file if it is on this machine, else None. Raises VideoError if the path leaves the folder."""
        if sample.video is not None and not is_url(sample.video):
            path = Path(os.path.normpath(self._folder / sample.video))
            if not path.is_relative_to(os.path.normpath(self._folder)):
                raise VideoError(f"the path leaves the folder {self._folder}; move the file or give --videos_dir")
            return path if path.is_file() else None
        name = self._name(sample)
        return find_video(self._folder, name) or self._downloader.find(name)

    def done(self, sample):
        """A clip needs its video no longer: remove it if it was downloaded and no other clip needs it."""
        name = self._name(sample)
        self._needed[name] -= 1
        if self._needed[name] <= 0 and not self._keep and name is not None:
            path = self._downloader.find(name)
            if path is not None:
                path.unlink()

    def _name(self, sample):
        """The file name, without suffix, of a video from the web; None for a local one."""
        if sample.youtube_id is not None:
            return sample.youtube_id if is_youtube_id(sample.youtube_id) else None
        return name_of(sample.video) if sample.video and is_url(sample.video) else None


class Downloader:
    """Fetches videos into a folder; a video that is there is not fetched again, whoever put it there.

    Used from several threads: two clips of one video share one download.
    Raises InputError if the cookie file does not exist.
    """

    def __init__(self, folder, cookies=None, cookies_from_browser=None, pause=REQUEST_PAUSE):
        self.folder = Path(folder)
        if cookies is not None and not Path(cookies).is_file():
            raise InputError(f"--cookies {cookies}: no such file; export it from a browser in Netscape format")
        self._cookies = cookies
        self._browser = cookies_from_browser
        self._pause = pause
        self._locks = {}
        self._guard = threading.Lock()
        self.stopped = None  # the StageError that ended the run's downloads

    def find(self, name):
        """The file of a video that was downloaded, or None."""
        return find_video(self.folder, name)

    def fetch(self, name, url):
        """The local file of a video, downloaded from its URL unless it is there. `name` is the file's, without suffix.

        Raises VideoError if there is no such video any more (`retry` False) or it could not be had this time (True),
        StageError if the server wants no more requests for now.
        """
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            return self.find(name) or self._download(url, name)

    def _download(self, url, name):
        for attempt in range(1, ATTEMPTS + 1):
            if self.stopped:
                raise self.stopped
            try:
                return self._download_once(url, name)
            except _Refused as refused:
                last = attempt == ATTEMPTS
                if refused.kind in ("gone", "locked"):
                    raise VideoError(f"{url}: {refused}", retry=refused.kind == "locked") from None
                if last and refused.kind == "stopping":
                    self.stopped = StageError(
                        f"{url}: {refused}; the server takes no more requests for now: wait an hour, or show that you "
                        "are a person with --cookies or --cookies_from_browser, then run the same command again")
                    raise self.stopped from None
                if last:
                    raise VideoError(f"{url}: {refused}", retry=True) from None
                pause = min(refused.retry_after or 2.0 ** attempt, LONGEST_PAUSE)
                log.info(f"{url}: {refused}; trying again in {pause:.0f} s")
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _download_once(self, url, name):
        """One attempt; raises _Refused."""
        import yt_dlp

        self.folder.mkdir(parents=True, exist_ok=True)
        with self._private_cookies() as cookies:
            options = {
                "format": FORMAT,
                "outtmpl": {"default": str(self.folder / name).replace("%", "%%") + ".%(ext)s"},
                "noplaylist": True, "continuedl": True, "retries": RETRIES, "fragment_retries": RETRIES,
                "retry_sleep_functions": dict.fromkeys(("http", "fragment"), lambda n: min(2.0 ** n, LONGEST_PAUSE)),
                "sleep_interval_requests": self._pause, "socket_timeout": SOCKET_TIMEOUT,
                "quiet": True, "no_warnings": True, "noprogress": True, "logger": _Silence(),
                "cookiefile": cookies,
                "cookiesfrombrowser": (self._browser,) if self._browser else None,
            }
            try:
                with yt_dlp.YoutubeDL(options) as ytdl:
                    info = ytdl.extract_info(url, download=True)
            except yt_dlp.utils.YoutubeDLError as error:
                raise _Refused(error) from None
        files = (info or {}).get("requested_downloads")
        if not files:
            raise VideoError(f"{url}: is no single video", retry=False)
        return Path(files[0]["filepath"])

    @contextlib.contextmanager
    def _private_cookies(self):
        """A copy of the cookie file: yt-dlp writes the file back, and workers would overwrite one another's."""
        if self._cookies is None:
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copy(self._cookies, Path(folder) / "cookies.txt")


class _Refused(Exception):
    """One attempt at a video failed.

    kind         "stopping": no request will be answered now; "gone": there is no such video for us; "locked": only for
                 somebody signed in; "passing": it may work the next time
    retry_after  seconds that the server asked to wait, or None
    """

    def __init__(self, error):
        cause = error.exc_info[1] if getattr(error, "exc_info", None) else error
        message = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        super().__init__(re.sub(r"^ERROR: (\[[^]]*\] )?", "", message).partition(" (caused by")[0][:300])
        status = getattr(cause, "status", None)
        if status == 429 or STOPPING.search(message):
            self.kind = "stopping"
        elif LOCKED.search(message):
            self.kind = "locked"
        elif GONE.search(message):
            self.kind = "gone"
        else:
            self.kind = "passing"
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        text = headers.get("Retry-After", "")
        self.retry_after = float(text) if text.isdigit() else None


class _Silence:
    """yt-dlp's logger: errors come as exceptions, and the progress bar is ours."""

    def debug(self, message):
        """Ignore it."""

    info = warning = error = debug


def find_video(folder, name):
    """The video file called `name`, whatever its suffix, in a folder; None if there is none or the name is None."""
    candidates = [] if name is None else (Path(folder) / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def is_youtube_id(text):
    """Whether a text can be the id of a YouTube video, and so a file name."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None


def is_url(video):
    """Whether a dataset's `video` is a URL rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", video) is not None


def require_web(url):
    """Raise VideoError unless a URL is http or https with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise VideoError(f"{url!r} is no http or https address", retry=False)


def youtube_url(youtube_id, template=YOUTUBE_URL):
    """The address of a YouTube video. Raises VideoError if the id is none, so that it cannot become anything else."""
    if not is_youtube_id(youtube_id):
        raise VideoError(f"{youtube_id!r} is no YouTube id", retry=False)
    return template.replace("{youtube_id}", youtube_id)


def name_of(url):
    """The file name, without suffix, of the video at a URL."""
    return "url-" + hashlib.blake2b(url.encode(), digest_size=10).hexdigest()
