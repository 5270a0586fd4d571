"""What yt-dlp's errors mean for a run, which names videos get, and what a download may not do."""

import socket
import subprocess

import pytest
from drawn_videos import write_video
from video_server import VideoServer, pour, redirect

from actalign import download
from actalign.dataset import Sample
from actalign.download import Refusal, VideoError, Videos, file_name


@pytest.mark.parametrize(("kind", "message"), [
    ("stopping", "[youtube] abc: Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or --cookies"),
    ("stopping", "[youtube] abc: Sign in to confirm you're not a bot."),
    ("stopping", "[youtube] abc: Video unavailable. This content isn't available, try again later. The current session "
                 "has been rate-limited by YouTube for up to an hour."),
    ("stopping", "[generic] a: Unable to download webpage: HTTP Error 429: Too Many Requests (caused by <HTTPError>)"),
    ("gone", "[youtube] abc: Private video. Sign in if you've been granted access to this video"),
    ("gone", "[youtube] abc: Video unavailable. This video has been removed by the uploader"),
    ("gone", "[youtube] abc: Video unavailable. This video is no longer available because the YouTube account "
             "associated with this video has been terminated."),
    ("gone", "[youtube] abc: The uploader has not made this video available in your country"),
    ("gone", "[generic] a: Unable to download webpage: HTTP Error 404: Not Found"),
    ("locked", "[youtube] abc: Sign in to confirm your age. This video may be inappropriate for some users."),
    ("locked", "[youtube] abc: Join this channel to get access to members-only content like this video"),
    ("passing", "[download] Got error: HTTP Error 403: Forbidden"),
    ("passing", "[youtube] abc: Unable to download API page: timed out"),
])
def test_errors_are_sorted_by_what_they_mean_for_the_run(kind, message):
    refused = Refusal(RuntimeError(f"ERROR: {message}"))
    assert refused.kind == kind
    assert "\n" not in str(refused)
    assert not str(refused).startswith("ERROR")


class Response:
    """What a server answered with."""

    def __init__(self, **headers):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry_After": "7"}, 7), ({}, None),
                                                  ({"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None)])
def test_retry_after_is_read_where_it_is_a_number(headers, seconds):
    error, cause = RuntimeError("HTTP Error 503"), RuntimeError()
    error.exc_info, cause.response = (None, cause, None), Response(**headers)
    assert Refusal(error).retry_after == seconds


def sample(**fields):
    return Sample(id="a", domain="d", options=("o",), **fields)


@pytest.fixture
def address_of(tmp_path, monkeypatch):
    """Which address is asked for a sample's video."""
    monkeypatch.setattr(download, "download", lambda url, *_: url)
    return lambda sample: Videos(tmp_path, tmp_path, [sample]).path(sample)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".flv", ".gif", ".wmv", ".unknown_video"])
def test_a_download_is_found_again_whatever_its_suffix_and_removed_in_the_end(tmp_path, monkeypatch, suffix):
    asked, wanted = [], sample(youtube_id="abc")

    def fetch(url, path, *_):
        asked.append(url)
        file = path.with_name(path.name + suffix)
        file.touch()
        return file

    monkeypatch.setattr(download, "download", fetch)
    (tmp_path / "abc.mp4.part").touch()  # what a killed run left of another try
    first = Videos(tmp_path / "own", tmp_path, [wanted])
    assert first.path(wanted) == first.path(wanted) == first.local_path(wanted) == tmp_path / f"abc{suffix}"
    again = Videos(tmp_path / "own", tmp_path, [wanted])  # another run
    assert again.path(wanted) == tmp_path / f"abc{suffix}"
    assert len(asked) == 1
    again.done(wanted)
    assert not (tmp_path / f"abc{suffix}").exists()


@pytest.mark.parametrize("id", ["../up", "a b", "", "--exec=touch", "a" * 65, "a;b", "é", "a/b"])
def test_what_is_no_id_never_becomes_an_address_or_a_file(address_of, id):
    assert file_name(sample(youtube_id=id)) is None
    with pytest.raises(VideoError, match="no YouTube id") as caught:
        address_of(sample(youtube_id=id))
    assert not caught.value.retry


def test_what_is_spelled_as_an_option_and_as_an_id_is_a_part_of_an_address(address_of):
    assert address_of(sample(youtube_id="--exec")).endswith("?v=--exec")


@pytest.mark.parametrize("url", ["HTTP://example.org", "https://me:word@[::1]:80/a.mp4?b=[c]#d", "http://a.b:8/é%20?x"])
def test_addresses_of_the_web_are_asked_for_as_they_are(address_of, url):
    assert address_of(sample(video=url)) == url


def test_names_of_addresses_are_plain_and_their_own():
    urls = ("http://a/b.mp4", "http://a/c.mp4", "https://a/b.mp4", "http://a/../../b.mp4?x=/")
    names = {file_name(sample(video=url)) for url in urls}
    assert len(names) == 4
    assert all(name.isascii() and name.replace("-", "").isalnum() for name in names)
    assert file_name(sample(video="b.mp4")) is None


# Within bounds


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server with a.mp4. It is also the proxy through which http://videos.example/ is reached, of the web."""
    for name, value in {"ATTEMPTS": 1, "RETRIES": 0, "REQUEST_PAUSE": 0}.items():
        monkeypatch.setattr(download, name, value)
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *rest, **options):
        if host == "videos.example":
            raise socket.gaierror("only the proxy knows")
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (tmp_path / "web").mkdir()
    write_video(tmp_path / "web" / "a.mp4", 10)
    server = VideoServer(tmp_path / "web")
    for name in ("all_proxy", "ALL_PROXY", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    yield server
    server.close()


def fetch(folder, url, **settings):
    """The file that a row's address becomes."""
    wanted = sample(video=url)
    return Videos(folder / "own", folder / "videos", [wanted], **settings).path(wanted)


def denial(folder, url, **settings):
    """Why an address becomes no file; no other try can help, and nothing is left of this one."""
    with pytest.raises(VideoError) as caught:
        fetch(folder, url, **settings)
    assert not caught.value.retry
    assert list((folder / "videos").glob("*")) == []
    return str(caught.value)


PRIVATE = ["http://127.0.0.1:1/a.mp4", "http://localhost/a.mp4", "http://[::1]/a.mp4", "http://[::ffff:10.0.0.1]/a.mp4",
           "http://169.254.169.254/a.mp4", "http://2130706433/a.mp4", "http://192.168.0.1:80/a.mp4",
           "https://me:word@172.16.0.1/a.mp4", "http://100.100.100.200/a.mp4",
           "http://[fd00::1]/a.mp4", "http://[fe80::1]/a.mp4", "http://0/a.mp4"]


@pytest.mark.parametrize("address", [*PRIVATE, "ftp://93.184.216.34/a.mp4"])
def test_a_way_from_the_web_to_a_private_address_or_another_protocol_is_not_gone(tmp_path, web, address):
    web.behave = lambda name, handler, *_: name == "moved.mp4" and redirect(handler, address)
    assert "leads to" in denial(tmp_path, "http://videos.example/moved.mp4")
    assert {name for name, _ in web.requests} == {"moved.mp4"}


def test_what_is_private_itself_may_lead_to_a_private_address(tmp_path, web, monkeypatch):
    monkeypatch.delenv("http_proxy")
    web.behave = lambda name, handler, *_: name == "moved.mp4" and redirect(handler, f"{web.url}/a.mp4")
    assert fetch(tmp_path, f"{web.url}/moved.mp4").read_bytes() == (web.folder / "a.mp4").read_bytes()


def test_a_redirect_to_a_file_of_this_machine_is_none(tmp_path, web):
    web.behave = lambda name, handler, *_: redirect(handler, f"file://{web.folder}/a.mp4")
    with pytest.raises(VideoError):
        fetch(tmp_path, "http://videos.example/moved.mp4")


def playlist(*pieces, head=""):
    return ("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n" + head
            + "".join(f"#EXTINF:1,\n{piece}\n" for piece in pieces))


def test_a_recorded_playlist_is_fetched_piece_by_piece_by_the_same_rules(tmp_path, web):
    for number in range(2):
        write_video(web.folder / f"{number}.ts", 24)
    (web.folder / "a.m3u8").write_text(playlist("0.ts", "1.ts") + "#EXT-X-ENDLIST\n")
    pieces = b"".join((web.folder / f"{number}.ts").read_bytes() for number in range(2))
    assert fetch(tmp_path, "http://videos.example/a.m3u8").read_bytes() == pieces
    (web.folder / "b.m3u8").write_text(playlist("0.ts", f"{web.url}/1.ts") + "#EXT-X-ENDLIST\n")
    (tmp_path / "other").mkdir()
    assert "leads to" in denial(tmp_path / "other", "http://videos.example/b.m3u8")


@pytest.mark.parametrize("text", [playlist("0.ts"), playlist("0.ts", head="#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"key\"\n")
                                  + "#EXT-X-ENDLIST\n"], ids=["live", "encrypted"])
def test_a_playlist_that_another_program_would_have_to_read_is_refused(tmp_path, web, monkeypatch, text):
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("started another program"))
    (web.folder / "a.m3u8").write_text(text)
    assert denial(tmp_path, "http://videos.example/a.m3u8")


@pytest.mark.parametrize("protocol", ["rtmp", "rtsp", "mms", "m3u8"])
def test_a_video_by_a_protocol_of_another_program_is_refused(tmp_path, web, monkeypatch, protocol):
    import yt_dlp

    format = {"format_id": "1", "ext": "mp4", "url": "rtmp://videos.example/a", "protocol": protocol}
    found = {"id": "a", "title": "a", "extractor": "x", "extractor_key": "X", "webpage_url": "x", "formats": [format]}
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("started another program"))
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda ytdl, *_, **__: ytdl.process_ie_result(dict(found)))
    assert "no single recorded video" in denial(tmp_path, "http://videos.example/a")


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "text/html"])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_body_without_end_is_given_up_at_the_limit(tmp_path, web, monkeypatch, kind, encoding):
    monkeypatch.setattr(download, "MOST_PAGE_BYTES", 1 << 20)
    web.behave = lambda name, handler, *_: pour(handler, kind, encoding)
    assert "--max_video_gb" in denial(tmp_path, "http://videos.example/a.mp4", most_bytes=3e6)


def test_a_page_of_many_videos_is_none_and_fetches_none(tmp_path, web, monkeypatch):
    import yt_dlp

    entries = [{"_type": "url", "url": f"http://videos.example/{number}.mp4"} for number in range(9)]
    found = {"_type": "playlist", "id": "a", "title": "a", "extractor": "x", "extractor_key": "X", "entries": entries}
    extract_info = yt_dlp.YoutubeDL.extract_info
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda ytdl, url, **options: (
        ytdl.process_ie_result(dict(found)) if url.endswith("/page") else extract_info(ytdl, url, **options)))
    assert "no single recorded video" in denial(tmp_path, "http://videos.example/page")
    assert web.requests == []
