"""The draft of a configuration with problems: which keys could be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.draft import Draft, around

if TYPE_CHECKING:
    from authz_service.config.kinds import Where

PLACES = st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=4).map(tuple)


def draft(unread: frozenset[Where]) -> Draft:
    return Draft(None, {}, {}, (), {}, None, {}, None, unread, around(unread))


@given(st.frozensets(PLACES, max_size=5), st.lists(PLACES, max_size=3))
def test_a_key_could_be_read_unless_something_in_or_around_it_could_not(
    unread: frozenset[Where], places: list[Where]
) -> None:
    nested = any(one[: len(other)] == other or other[: len(one)] == one for one in unread for other in places)
    assert draft(unread).has(*places) is not nested
