"""What yt-dlp's errors mean for a run, and which names videos get."""

import pytest

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
