"""Near copies among many questions."""

from __future__ import annotations

from truetune.augment.copies import copies

KNOWN = [f"where do i find the part number {number} of my bike frame" for number in range(300)]


def test_finds_what_is_nearly_asked_already_and_nothing_else() -> None:
    new = [
        "where do i find the part numbr 7 of my bike frame",
        "where do i find the part number 999 of my bike frame",
        "how long does it take until my wheel has been repaired",
        "how long does it take until my wheel has been repairedd",
        "how long does it take",
    ]
    assert copies(KNOWN, new) == {0: "known", 3: "twice"}
    assert copies(KNOWN, []) == {} == copies([], new[2:3])
