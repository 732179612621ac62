from __future__ import annotations

import pickle

from pc_engine.sources.held_bytes import HeldBytes


def again() -> bytes:
    return b"again"


def test_bytes_are_let_go_of_when_they_are_read() -> None:
    held = HeldBytes(10)
    image = held.image("a", b"12345678", again)
    assert (held.has_room(2), held.has_room(3)) == (True, False)
    assert image.read() == b"12345678"
    assert held.has_room(10)
    assert image.read() == b"again"
    assert not held.has_room(11)


def test_bytes_are_let_go_of_with_their_image() -> None:
    held = HeldBytes(10)
    image = held.image("a", b"12345678", again)
    del image
    assert held.has_room(10)


def test_they_go_to_other_processes() -> None:
    image = HeldBytes(10).image("a", b"1234", again)
    copy = pickle.loads(pickle.dumps(image))
    assert (copy.read(), copy.read(), image.read()) == (b"1234", b"again", b"1234")
