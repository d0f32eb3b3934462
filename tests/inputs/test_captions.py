import html

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cffa_hf.inputs.captions import clean_caption


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("A  man\tin\nblack. ", "A man in black."),
        ("it&#39;s &quot;red&quot;", 'it\'s "red"'),
        ("&amp;lt;b&amp;gt;", "<b>"),
        ("cafÃ© in the back", "café in the back"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("\u00a0wide\u3000space\u2003", "wide space"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_repairs_unescapes_and_folds(raw, cleaned):
    assert clean_caption(raw) == cleaned


@given(st.text())
def test_no_white_space_but_single_spaces_inside(text):
    cleaned = clean_caption(text)
    assert cleaned == " ".join(cleaned.split())


@given(st.text(alphabet=st.characters(max_codepoint=0x7F, exclude_characters="&")))
def test_cleaning_plain_text_twice_changes_nothing(text):
    assert clean_caption(clean_caption(text)) == clean_caption(text)


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_plain_text_takes_a_short_way_to_the_same_result(text):
    assert clean_caption(text) == " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
