"""The README's commands, against the scripts' own parsers."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_readme_shows_all_six_scripts():
    assert {script for script, _ in commands_in((ROOT / "README.md").read_text())} == set(SCRIPTS)


@pytest.mark.parametrize(("script", "arguments"), commands_in((ROOT / "README.md").read_text()))
def test_commands_of_the_readme_parse(script, arguments):
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


def test_links_of_the_readme_lead_to_files():
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_own_videos_section_run_word_for_word_ends_with_the_right_predictions(tmp_path):
    section = (ROOT / "README.md").read_text().partition("## Your own videos\n")[2].partition("\n## ")[0]
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL))
    for name in ("actalign", "examples", *(f"{script}.py" for script in SCRIPTS)):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True,
                         check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^first +dive to straddle jump ", ran.stdout, flags=re.MULTILINE)
    assert re.search(r"^second +split to handstand ", ran.stdout, flags=re.MULTILINE)
