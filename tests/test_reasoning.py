"""Reasoned answers: the format, agreement, abstention."""

import pytest

from tanl.beyond.reasoning import (
    Consistency,
    ReasoningModel,
    answer_or_abstain,
    ask,
    parse_reasoned,
    self_consistency,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The heart is large. \boxed{cardiomegaly}", "cardiomegaly"),
        (r"so \boxed{ B } and that is it.", "B"),
        (r"thus \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"thus \boxed{\{a\}}", r"\{a\}"),
        (r"thus \boxed{a \} b}", r"a \} b"),
    ],
)
def test_the_one_box_is_the_answer(text, answer):
    found = parse_reasoned(text)
    assert found.answer == answer
    assert found.reasoning == text.partition(r"\boxed")[0].strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no box", "has no"),
        ("", "has no"),
        (r"a \boxed{b} c \boxed{d}", "more than one"),
        (r"a \boxed{b \boxed{c}}", "more than one"),
        (r"a \boxed{b", "not closed"),
        (r"a \boxed{b\}", "not closed"),
        (r"a \boxed{ }", "the box is empty"),
        (r"\boxed{b}", "no text stands before"),
        ("  \n\\boxed{b}", "no text stands before"),
    ],
)
def test_what_does_not_keep_the_format_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_reasoned(text)


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="not a NoneType"):
        parse_reasoned(None)


def traces(*answers):
    return [f"because \\boxed{{{answer}}}" if answer else "I do not know" for answer in answers]


def test_agreement_counts_traces_that_do_not_parse_against_it():
    found = self_consistency(
        traces("Pleural  effusion.", "edema", "pleural effusion", "", "PLEURAL EFFUSION")
    )
    assert found == Consistency("Pleural  effusion.", 3 / 5, 1)
    assert self_consistency(traces("", "")) == Consistency(None, 0.0, 2)
    with pytest.raises(ValueError, match="no traces"):
        self_consistency([])


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({}, ()),
        ({"is_ood": False, "trust": 0.9, "least_trust": 0.5}, ()),
        ({"least_share": 0.6}, ()),
        ({"least_share": 0.61}, ("only 60% of the traces agree",)),
        ({"is_ood": True}, ("the image belongs to none of the classes",)),
        ({"trust": 0.25, "least_trust": 0.5}, ("the answer's trust is 0.25, below 0.5",)),
        ({"trust": 0.25}, ()),
    ],
)
def test_an_answer_is_given_if_nothing_speaks_against_it(options, reasons):
    decision = answer_or_abstain(Consistency("edema", 0.6, 0), **options)
    assert decision.reasons == reasons
    assert decision.answer == (None if reasons else "edema")


def test_all_reasons_are_told():
    decision = answer_or_abstain(Consistency(None, 0.0, 3), is_ood=True, trust=0.1, least_trust=0.2)
    assert decision.answer is None and len(decision.reasons) == 3


def test_rules_without_what_they_need_are_refused():
    with pytest.raises(ValueError, match="least_trust was given without"):
        answer_or_abstain(Consistency("a", 1.0, 0), least_trust=0.5)
    with pytest.raises(ValueError, match="least_share is 2"):
        answer_or_abstain(Consistency("a", 1.0, 0), least_share=2)


class Stub:
    def __init__(self, *answers):
        self.answers = answers

    def generate(self, image, question, n):
        return traces(*self.answers)


def test_any_model_with_the_protocol_can_be_asked():
    assert isinstance(Stub(), ReasoningModel)
    assert ask(Stub("a", "a", "b"), None, "what?", n=3) == Consistency("a", 2 / 3, 0)
    with pytest.raises(ValueError, match="gave 1 traces, not 3"):
        ask(Stub("a"), None, "what?", n=3)
