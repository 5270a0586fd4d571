"""Where videos come from: a folder, or the web through yt-dlp, fetched once, with an answer to what servers do."""

import hashlib
import io
import ipaddress
import logging
import os
import re
import socket
import threading
import time
import traceback
import urllib.request
from collections import Counter
from concurrent import futures
from pathlib import Path

from actalign.console import StageError, log

HUB = "hf://datasets/"  # and OWNER/NAME@main/PATH: a file of a dataset on the Hugging Face hub
YOUTUBE_URL = "https://www.youtube.com/watch?v={youtube_id}"
WEB_ADDRESS = re.compile(r"(?i)https?://(?=[^/?#])[^\s\0-\37/?#[\]]*(\[[\da-f:.]+\](:\d+)?)?([/?#][^\s\0-\37]*)?")
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".flv", ".wmv", ".gif", ".mpg", ".mpeg", ".3gp",
            ".ogv", ".mts", ".m2ts")  # of the user's own files
# H.264 decodes fastest; nothing beyond 720 lines is of use; a direct link to a file has no known height.
FORMAT = "bv[height<=720][vcodec^=avc1]/bv[height<=720]/b[height<=720]/bv/b"
RETRIES = 10  # of one piece of a file, by yt-dlp itself
ATTEMPTS = 4  # at one video that meets a passing error
LONGEST_PAUSE = 60  # s between two attempts, also where a server's Retry-After asks for more
REQUEST_PAUSE = 0.5  # s between two requests of one worker, which YouTube's limits reward
SOCKET_TIMEOUT = 20  # s without a byte
MOST_PAGE_BYTES = 1 << 26  # of an answer that is no video
FETCHED = "!is_live & protocol~='^(https?|m3u8_native|http_dash_segments)$'"  # yt-dlp has other programs fetch the rest

# What the extractors say, sorted by what it means for the run; the first that fits counts: no request will be answered
# now, only somebody signed in gets the video, nobody does. Anything else may pass.
KINDS = {kind: re.compile(said, re.IGNORECASE) for kind, said in {
    "stopping": r"confirm you.{0,3}re not a bot|rate-limited|Too Many Requests|HTTP Error 429",
    "locked": r"confirm your age|members.only|join this channel|login required|gated repo|"
              r"only available for registered",
    "gone": r"private video|video (is )?unavailable|has been removed|no longer available|account .{0,40}terminated|"
            r"not available in your country|not made this video available|blocked it|HTTP Error (404|410|451)|"
            r"Entry Not Found|unsupported URL|ffmpeg could not be found"}.items()}

SILENCE = logging.Logger("yt_dlp", logging.CRITICAL + 1)  # its errors come as exceptions, and the progress bar is ours


class VideoError(Exception):
    """This video does not give this clip whole; the reason is one line. `retry` tells whether another try can help."""

    def __init__(self, reason, retry=True):
        super().__init__(reason)
        self.retry = retry


class Videos:
    """Where the samples' videos are: in a folder of the user's, or fetched from the web, each once, for all threads.

    folder           consulted first and never written to; None: that of each sample's dataset
    downloads        folder of what was not there; its files are removed once no clip needs them, unless `keep`
    settings         of `download`
    """

    def __init__(self, folder, downloads, samples, keep=False, url_template=YOUTUBE_URL, **settings):
        self._folder, self._downloads, self._keep = folder, Path(downloads), keep
        self._template, self._settings, self._closed = url_template, settings, futures.Future()
        self._needed = Counter(map(file_name, samples))
        # Those of earlier runs, whatever yt-dlp made of the suffix; what it did not finish has two suffixes.
        self._downloaded = {path.stem: path for path in self._downloads.glob("*.*")}
        self._locks = {}  # by the videos' names
        self._stopped = None  # the StageError that ended the run's downloads

    def path(self, sample):
        """The local file of a sample's video, downloaded if need be.

        Raises VideoError if there is no such video (`retry` False) or it could not be had this time (True), StageError
        if the server wants no more requests for now.
        """
        path, name = self.local_path(sample), file_name(sample)
        if path is not None:
            return path
        if name is None and sample.youtube_id is None and sample.hub is None:
            raise VideoError("no such file")
        if name is None and sample.youtube_id is not None:
            raise VideoError(f"{sample.youtube_id!r} is no YouTube id", retry=False)
        url = sample.video if sample.youtube_id is None else self._template.replace("{youtube_id}", sample.youtube_id)
        if name is None:
            url = name = f"{sample.hub}/{sample.video}"
        elif not WEB_ADDRESS.fullmatch(url):
            raise VideoError(f"{url!r} is no http or https address", retry=False)
        with self._locks.setdefault(name, threading.Lock()):
            if name not in self._downloaded:
                result = futures.Future()
                threading.Thread(target=self._download, args=(url, name, result), daemon=True).start()
                futures.wait([result, self._closed], return_when=futures.FIRST_COMPLETED)
                self._downloaded[name] = result.result(timeout=0)  # a closed run leaves the thread where it waits
            return self._downloaded[name]

    def close(self):
        """End all downloads; what came of them is kept, and another run goes on from there."""
        self._closed.set_result(None)

    def local_path(self, sample):
        """The file if it is on this machine, else None. Raises VideoError if a path from the hub leaves the folder."""
        folder = self._folder or sample.folder
        if sample.video is None or "://" in sample.video:
            name = file_name(sample)
            # Texts, since Paths take three times as long.
            own = (f"{folder}/{name}{suffix}" for suffix in SUFFIXES if name and folder)
            path = next(filter(os.path.isfile, own), None)
            return Path(path) if path else self._downloaded.get(name)
        path = Path(os.path.normpath(sample.video))
        if sample.hub and (path.is_absolute() or path.parts[:1] == ("..",)):
            raise VideoError("the path leaves the folder of the hub's dataset", retry=False)
        path = Path(os.path.normpath(folder / path)) if folder else None
        return path if path and path.exists() else None

    def done(self, sample):
        """A clip needs its video no longer: remove it if it was downloaded and no other clip needs it."""
        name = file_name(sample)
        self._needed[name] -= 1
        if not self._needed[name] and not self._keep and name in self._downloaded:
            self._downloaded.pop(name).unlink(missing_ok=True)

    def _download(self, url, name, result):
        try:
            for attempt in range(1, ATTEMPTS + 1):
                if self._stopped:
                    raise self._stopped
                try:
                    return result.set_result(download_from_hub(url) if url.startswith(HUB) else
                                             download(url, self._downloads / name, **self._settings))
                except Refusal as error:
                    refusal = error
                if refusal.kind in ("gone", "locked") or attempt == ATTEMPTS:
                    break
                pause = min(refusal.retry_after or 2.0 ** attempt, LONGEST_PAUSE)
                log.info(f"{url}: {refusal}; trying again in {pause:.0f} s")
                time.sleep(pause)
            if refusal.kind != "stopping":
                raise refusal
            self._stopped = StageError(f"{url}: {refusal}; the server takes no more requests for now: run again in an "
                                       "hour or with --cookies or --cookies_from_browser, which show a person")
            raise self._stopped
        except BaseException as error:  # to be raised where the file is waited for
            result.set_exception(error)


def place_of(error):
    """(file, "FILE:LINE") where an exception was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename, f"{Path(last.filename).name}:{last.lineno}"


class Refusal(VideoError):
    """One attempt at a video failed: `kind` is one of KINDS or "passing"; `retry_after` in seconds, or None."""

    def __init__(self, error):
        message = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        self.kind = next((kind for kind, said in KINDS.items() if said.search(message)), "passing")
        message = re.sub(r"^ERROR: (\[[^]]*\] )?", "", message).partition(" (caused by")[0][:300]
        super().__init__(message, retry=self.kind != "gone")
        _, cause, _ = getattr(error, "exc_info", None) or (None, None, None)
        after = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", "")
        self.retry_after = float(after) if after.isdigit() else None


class _Denied(BaseException):
    """No Exception, since yt-dlp handles those."""


class _Guard(urllib.request.BaseHandler):
    """Denies what in a download, its redirects and pieces, leads away from http(s) or the web, or has no end."""

    handler_order = 100  # in front of yt-dlp's own

    def __init__(self, url, most_bytes):
        self._may_be_private, self._bytes_left = is_private(url), most_bytes

    def default_open(self, request):
        if request.type not in ("http", "https") or (is_private(request.full_url) and not self._may_be_private):
            raise _Denied(f"leads to {request.full_url[:200]}, another protocol or a private address")

    def http_response(self, request, response):
        def read(amount=None, read=response.read):
            content = read(amount or MOST_PAGE_BYTES)
            self._bytes_left -= len(content)
            if self._bytes_left < 0 or len(content) == MOST_PAGE_BYTES:
                raise _Denied("is larger than a video may be; give a higher --max_video_gb")
            return content

        response.read = read
        del response.headers["Content-Encoding"]  # none was asked for, and unpacked it could be of any size
        return response

    https_response = http_response


def is_private(url):
    """Whether the host of an address is one that the web does not reach."""
    try:
        found = socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)
    except (OSError, ValueError):  # nobody is there, or only a proxy knows who
        return False
    addresses = [ipaddress.ip_address(address) for *_, (address, *_) in found]
    return not all((getattr(address, "ipv4_mapped", None) or address).is_global for address in addresses)


def download(url, path, cookies=None, browser=None, most_bytes=float("inf")):
    """Try once to download a video to `path`, which has no suffix yet; returns the file.

    cookies, browser  a cookie file, or the browser whose cookies are taken    most_bytes  of all that is sent
    Raises VideoError: a Refusal, or another if there is more than a video or it is denied.
    """
    import yt_dlp

    options = {
        "format": FORMAT, "outtmpl": {"default": str(path).replace("%", "%%") + ".%(ext)s"}, "noplaylist": True,
        "retries": RETRIES, "fragment_retries": RETRIES, "socket_timeout": SOCKET_TIMEOUT, "logger": SILENCE,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment"), lambda n: min(2.0 ** n, LONGEST_PAUSE)),
        "match_filter": yt_dlp.utils.match_filter_func(FETCHED), "playlist_items": "0",
        "http_headers": {"Accept-Encoding": "identity"}, "ffmpeg_location": "/no/other/program",
        "sleep_interval_requests": REQUEST_PAUSE, "cookiesfrombrowser": (browser,) if browser else None,
        # As a text: yt-dlp writes a file back, and workers would overwrite one another's.
        "cookiefile": io.StringIO(Path(cookies).read_text("utf-8", "replace")) if cookies else None}
    try:
        with yt_dlp.YoutubeDL(options) as ytdl:
            handlers, guard = ytdl._request_director.handlers, _Guard(url, most_bytes)
            for name in handlers.keys() - {"Urllib"}:  # those of other libraries, past the guard
                handlers.pop(name).close()
            create = handlers["Urllib"]._create_instance
            handlers["Urllib"]._create_instance = lambda **how: (made := create(**how)).add_handler(guard) or made
            info = ytdl.extract_info(url, download=True)
    except _Denied as error:
        for part in path.parent.glob(f"{path.name}.*"):
            part.unlink()
        raise VideoError(str(error), retry=False) from None
    except yt_dlp.utils.YoutubeDLError as error:
        raise Refusal(error) from None
    files = [file["filepath"] for file in (info or {}).get("requested_downloads") or () if "filepath" in file]
    if not files:
        raise VideoError(f"{url}: is no single recorded video that comes by http", retry=False)
    return Path(files[0])


def download_from_hub(url):
    """Try once to fetch a file of a dataset by its address, see HUB; returns it in the hub's own cache, where it stays.

    Raises Refusal.
    """
    import huggingface_hub

    dataset, _, path = url.removeprefix(HUB).partition("@main/")
    huggingface_hub.utils.disable_progress_bars()
    try:
        return Path(huggingface_hub.hf_hub_download(dataset, path, repo_type="dataset"))
    except Exception as error:  # the library raises those of its ways to the web as well
        raise Refusal(error) from None


def file_name(sample):
    """The file name, without suffix, of a sample's video from the web; None for a local one and for what is no id."""
    if sample.youtube_id is not None:
        return sample.youtube_id if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", sample.youtube_id) else None
    is_url = "://" in sample.video
    return "url-" + hashlib.blake2b(sample.video.encode(), digest_size=10).hexdigest() if is_url else None
