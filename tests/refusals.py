"""How tests look at errors that a user can cause."""

import pytest

from actalign.console import InputError
from actalign.files import lock


def refusal(call, *parts):
    """The message of an InputError: one line, with what is given and a next step after a semicolon."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    for part in parts:
        assert part in message
    return message


def require_one_run_at_a_time(stage, path, capsys):
    """While another run writes its predictions, a stage refuses to, works without --output, and leaves no lock."""
    held = lock(path)
    assert stage("--output", str(path)) == 2
    assert "another run is writing it" in capsys.readouterr().err
    assert stage() == 0
    held.close()
    assert stage("--output", str(path)) == 0
    assert not path.with_name(path.name + ".lock").exists()
