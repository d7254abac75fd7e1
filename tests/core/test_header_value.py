"""A claim becomes the value of a header only if every receiver reads it alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.core.header_value import UnencodableError, encode
from authz_service.core.headers import AmbiguousHeaderError, value_of

# Controls and halves of surrogate pairs, in one expression that takes long to compile.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# The same for a request's header: what is not UTF-8 arrives as U+FFFD.
_AMBIGUOUS = re.compile("[,\ufffd\x00-\x08\x0a-\x1f\x7f-\x9f]")
_TEXTS = st.text(st.sampled_from("ab,\t\x00\x1f\x7f\x80\x9f\xa0é\ud7ff\ud800\udbff\udc00\udfff\ue000\ufffc\ufffd😀"))


def _is_encoded(value: str) -> bool:
    try:
        return encode(value, None) == value
    except UnencodableError:
        return False


@given(_TEXTS | st.text())
def test_a_value_with_a_control_or_half_of_a_pair_is_never_sent(value: str) -> None:
    assert _is_encoded(value) == (not _UNFIT.search(value) and value == value.strip())


@given(_TEXTS | st.text())
def test_a_value_that_some_receivers_shorten_or_split_is_never_compared(value: str) -> None:
    sent = value.strip(" \t")
    if _AMBIGUOUS.search(sent) or sent != sent.strip():
        with pytest.raises(AmbiguousHeaderError):
            value_of({"x": value}, "x")
    else:
        assert value_of({"x": value}, "x") == sent
