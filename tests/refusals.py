"""How tests look at errors that a user can cause."""

import pytest

from actalign.console import InputError


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
