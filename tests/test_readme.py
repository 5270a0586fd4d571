"""The commands of README and docs/, against the scripts' own parsers, and run where they can be."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actalign import pipeline

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("process_data", "encode_videos", "generate_subactions", "encode_subactions", "baseline", "seq_alignment")

# The method's published commands; they must go on working as they stand.
PUBLISHED = """\
python process_data.py --output processed_dataset.npy
python encode_videos.py --output video_embeddings.npy --device cuda:0
python generate_subactions.py --input processed_dataset.npy --output generated_subactions.json --apikey KEY --temp 0.2
python encode_subactions.py --subactions generated_subactions.json --output encoded_subactions.npy --device cuda:0
python baseline.py --input_dataset processed_dataset.npy --video_embeddings video_embeddings.npy --device cuda:0
python seq_alignment.py --subactions generated_subactions.json --video_embeddings video_embeddings.npy \
--subaction_embeddings encoded_subactions.npy --device cuda:0
"""


def commands_in(text):
    """(script, arguments) of every `python <script>.py ...` line, continued lines joined."""
    joined = text.replace("\\\n", " ")
    found = re.findall(rf"^\s*(?:\$ )?(?:\w+=\S+ )?python ({'|'.join(SCRIPTS)})\.py(.*)$", joined, flags=re.MULTILINE)
    return [(script, shlex.split(arguments, comments=True)) for script, arguments in found]


@pytest.mark.parametrize("arguments", [
    shlex.split(arguments, comments=True) for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for arguments in re.findall(r"^python -m actalign (.*)$", page.read_text().replace("\\\n", " "), re.MULTILINE)])
def test_commands_of_the_door_parse(arguments):
    pipeline.parse_args(arguments)


def test_the_readme_shows_all_six_scripts():
    assert {script for script, _ in commands_in((ROOT / "README.md").read_text())} == set(SCRIPTS)


@pytest.mark.parametrize(("script", "arguments"), [
    command for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) for command in commands_in(
        page.read_text())])
def test_commands_of_readme_and_documentation_parse(script, arguments):
    importlib.import_module(script).parse_args(arguments)


@pytest.mark.parametrize(("script", "arguments"), commands_in(PUBLISHED))
def test_published_commands_parse(script, arguments):
    importlib.import_module(script).parse_args(arguments)


@pytest.mark.parametrize("script", SCRIPTS)
def test_examples_in_help_parse(script):
    module = importlib.import_module(script)
    shown = commands_in(module.__doc__)
    assert shown
    for _, arguments in shown:
        module.parse_args(arguments)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], heading


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_a_page_opens_with_a_command(page):
    assert re.match(r"# .*\n\n(.+\n)*\n?```bash\n", page.read_text())


def bash(commands, folder):
    """Run commands in a folder that has what the project's own has."""
    for name in ("actalign", "examples", *(f"{script}.py" for script in SCRIPTS)):
        (folder / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True,
                         check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def commands_of(page):
    """The bash blocks of a page before its first heading of the second level."""
    opening = (ROOT / "docs" / page).read_text().partition("\n## ")[0]
    return "\n".join(re.findall(r"```bash\n(.*?)```", opening, flags=re.DOTALL))


def test_the_own_videos_page_run_word_for_word_ends_with_the_right_answers(tmp_path):
    by_hand = (ROOT / "docs/own_videos.md").read_text().partition("\n## Stage by stage\n")[2].partition("\n## ")[0]
    opening = commands_of("own_videos.md")
    by_hand = re.findall(r"```bash\n(.*?)```", by_hand, re.DOTALL)
    printed = bash("\n".join([opening, "echo '--- by hand'", *by_hand]), tmp_path)
    answers, by_hand = printed.split("--- by hand")
    assert re.search(r"^first +dive to straddle jump +0\.\d\d$", answers, flags=re.MULTILINE)
    assert re.search(r"^second +split to handstand +0\.\d\d$", answers, flags=re.MULTILINE)
    assert re.search(r"^published +100\.0 .* 2$", by_hand, flags=re.MULTILINE)


@pytest.mark.parametrize(("page", "shown"), [("alignments.md", "unordered"), ("artifacts.md", '"version":3')])
def test_pages_about_the_examples_files_open_with_commands_that_run(demo_folder, tmp_path, page, shown):
    (tmp_path / "demo").symlink_to(demo_folder)
    assert shown in bash(commands_of(page), tmp_path)


def test_the_alignment_that_the_documentation_adds_runs(tmp_path, monkeypatch):
    from actalign import alignment

    page = (ROOT / "docs/alignments.md").read_text()
    function = re.search(r"^def middle.*?\n\n", page, flags=re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "added_alignment.py").write_text(f"import numpy as np\n\n\n{function}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(alignment, "middle", importlib.import_module("added_alignment").middle, raising=False)
    monkeypatch.setitem(alignment.ALIGNMENTS, "middle", "")
    scores, paths, _ = alignment.align([np.array([[0.1, 0.2], [0.9, 0.3], [0.4, 0.5]])], "middle", True)
    assert scores.tolist() == [0.9]
    assert paths[0].tolist() == [[1, 0]]
