import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decisions.rules import MAX_RULES, load, load_taken, match
from gateway.decisions.vocabulary import SHOWN, Varying
from gateway.errors import ConfigError
from gateway.pipeline import Needs, Pipeline, Role

DESIGN = """\
rules:
  - name: chest CT, lungs
    when:
      all:
        - {attribute: Modality, is: CT}
        - {attribute: BodyPartExamined, one_of: [CHEST, THORAX, LUNG]}
        - {attribute: SliceThickness, at_most: 6}
        - {fact: slices, at_least: 20}
    pipeline: ct_lung
    send_to: [pacs]
    priority: routine                    # stat | routine | background
"""
CHEST = {"Modality": "CT", "BodyPartExamined": "CHEST", "SliceThickness": 2.5}
FACTS = {"slices": 64, "instances": 64, "regular": True, "ours": False, "results": False}


def load_text(text):
    return load(text, pipelines=["ct_lung"], peers=["pacs", "archive"])


def with_conditions(*rows, group="all"):
    lines = "\n".join(f"        - {row}" for row in rows)
    return load_text(f"rules:\n  - name: one\n    when:\n      {group}:\n{lines}\n    pipeline: ct_lung\n    send_to: [pacs]\n")


def condition(row, attributes=CHEST, facts=FACTS):
    (outcome,) = match(with_conditions(row), attributes, facts)
    return outcome.conditions[0]


def problems(text):
    with pytest.raises(ConfigError) as error:
        load_text(text)
    return error.value.problems


def problem_of(row):
    with pytest.raises(ConfigError) as error:
        with_conditions(row)
    (problem,) = error.value.problems
    return problem


def test_the_rule_of_the_design_is_read():
    (rule,) = load_text(DESIGN).rules

    assert (rule.name, rule.line, rule.pipeline, rule.send_to, rule.priority) == (
        "chest CT, lungs", 2, "ct_lung", ("pacs",), "routine",
    )  # fmt: skip
    assert [one.line for one in rule.conditions] == [5, 6, 7, 8]


def test_a_series_that_meets_all_conditions_matches():
    (outcome,) = match(load_text(DESIGN), CHEST, FACTS)

    assert outcome.matched
    assert all(one.held for one in outcome.conditions)


def test_a_condition_that_does_not_hold_says_what_was_expected_and_found():
    (outcome,) = match(load_text(DESIGN), CHEST | {"BodyPartExamined": "HEAD"}, FACTS)

    assert not outcome.matched
    assert [one.held for one in outcome.conditions] == [True, False, True, True]
    assert outcome.conditions[1].text == "{attribute: BodyPartExamined, one_of: [CHEST, THORAX, LUNG]}"
    assert outcome.conditions[1].why == "expected one of CHEST, THORAX, LUNG; found HEAD"


def test_a_rule_set_names_the_attributes_it_looks_at():
    rule_set = with_conditions(
        "{attribute: Modality, is: CT}",
        "{fact: slices, at_least: 2}",
        "{expression: 'Rows > 4 && slices > 3'}",
        "{any: [{attribute: ContrastBolusAgentSequence/CodeValue, exists: true}]}",
    )

    assert rule_set.keywords == {"Modality", "Rows", "ContrastBolusAgentSequence/CodeValue"}


@pytest.mark.parametrize(
    ("row", "value", "held"),
    [
        ("{attribute: Modality, is: CT}", "CT", True),
        ("{attribute: Modality, is: CT}", "ct", False),
        ("{attribute: Modality, is_not: CT}", "MR", True),
        ("{attribute: Modality, is_not: CT}", "CT", False),
        ("{attribute: Modality, one_of: [CT, MR]}", "MR", True),
        ("{attribute: SeriesDescription, contains: ung}", "Lung 1.0", True),
        ("{attribute: SeriesDescription, contains: ung}", "Bone", False),
        ("{attribute: SeriesDescription, matches: '(?i)^LUNG'}", "Lung 1.0", True),
        ("{attribute: SeriesDescription, matches: '^ung'}", "Lung 1.0", False),
        ("{attribute: SliceThickness, at_least: 1}", 1.0, True),
        ("{attribute: SliceThickness, at_least: 1}", 0.99, False),
        ("{attribute: SliceThickness, at_most: 2.5}", 2.5, True),
        ("{attribute: SliceThickness, between: [1, 3]}", 3.0, True),
        ("{attribute: SliceThickness, between: [1, 3]}", 3.01, False),
        ("{attribute: Rows, is: 512}", 512, True),
        ("{attribute: Rows, one_of: [256, 512]}", 512, True),
        ("{attribute: SeriesDescription, exists: true}", "x", True),
        ("{attribute: SeriesDescription, exists: false}", "x", False),
        ("{attribute: ImageType, is: AXIAL}", ["ORIGINAL", "AXIAL"], True),
        ("{attribute: ImageType, is_not: AXIAL}", ["ORIGINAL", "AXIAL"], False),
        ("{attribute: ImageType, one_of: [AXIAL]}", ["ORIGINAL", "AXIAL"], True),
        ("{attribute: ImageType, contains: XIA}", ["ORIGINAL", "AXIAL"], True),
        ("{attribute: ImageType, matches: '^AX'}", ["ORIGINAL", "AXIAL"], True),
        ("{attribute: ImageType, is: AXIAL}", "AXIAL", True),
        ("{attribute: PixelSpacing, at_most: 1}", [0.7, 1.2], False),
        ("{attribute: PixelSpacing, at_most: 1}", [0.7, 0.7], True),
        ("{attribute: ContrastBolusAgentSequence/CodeValue, is: X}", ["Y", "X"], True),
        ("{attribute: SourceImageSequence, exists: true}", [True], True),
    ],
)
def test_operators_hold_as_documented(row, value, held):
    keyword = row.split(": ")[1].split(",")[0]

    assert condition(row, {keyword: value}).held is held


@pytest.mark.parametrize(
    "operator",
    ["is: CT", "is_not: CT", "one_of: [CT]", "contains: C", "matches: .", "exists: true"],
)
@pytest.mark.parametrize("absent", [{}, {"SeriesDescription": None}, {"SeriesDescription": ""}])
def test_a_missing_value_holds_nothing(operator, absent):
    found = condition(f"{{attribute: SeriesDescription, {operator}}}", absent)

    assert not found.held
    assert found.why.endswith("; missing")


def test_a_missing_value_is_what_exists_false_wants():
    assert condition("{attribute: SeriesDescription, exists: false}", {}).held


def test_a_value_that_varies_must_fit_in_every_instance():
    row = "{attribute: SliceThickness, at_most: 3}"

    assert condition(row, {"SliceThickness": Varying((1.0, 3.0))}).held
    found = condition(row, {"SliceThickness": Varying((1.0, 5.0))})
    assert not found.held
    assert found.why == "expected at most 3; varies over the series: 1 / 5"


def test_a_value_missing_in_some_instances_does_not_exist_in_every_one():
    some = {"SliceThickness": Varying((1.0, None))}

    assert not condition("{attribute: SliceThickness, exists: true}", some).held
    assert not condition("{attribute: SliceThickness, exists: false}", some).held


@pytest.mark.parametrize(
    ("row", "held"),
    [
        ("""{expression: "Modality == 'CT' && slices >= 20"}""", True),
        ("""{expression: "'AXIAL' in ImageType"}""", True),
        ("""{expression: "Modality == 'CT' || SeriesDescription == 'x'"}""", True),
        ("""{expression: "SeriesDescription == 'x'"}""", False),
        ("""{expression: "SliceThickness * double(slices) > 100.0"}""", True),
        ("""{expression: "!regular"}""", False),
    ],
)
def test_expressions_see_attributes_and_facts(row, held):
    assert condition(row, CHEST | {"ImageType": "AXIAL"}).held is held


def test_an_expression_on_a_missing_or_varying_attribute_says_so():
    row = """{expression: "SeriesDescription == 'x' && SliceThickness < 3.0"}"""

    found = condition(row, {"SliceThickness": Varying((1.0, 2.0))})

    assert not found.held
    assert found.why == "expected true; SeriesDescription missing, SliceThickness varies over the series"


def test_groups_nest():
    rule_set = with_conditions(
        "{attribute: Modality, is: CT}",
        "{none: [{attribute: ImageType, is: LOCALIZER}, {all: [{fact: slices, at_most: 3}, {fact: regular, is: false}]}]}",
    )

    (outcome,) = match(rule_set, CHEST | {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, FACTS)
    assert outcome.matched
    (outcome,) = match(rule_set, CHEST | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, FACTS)
    assert not outcome.matched
    assert outcome.conditions[1].text == "none"
    assert outcome.conditions[1].why == "expected none of 2 to hold; 1 did"
    assert [one.held for one in outcome.conditions[1].conditions] == [True, False]


@pytest.mark.parametrize(("thickness", "matched"), [(1.0, True), (9.0, True), (5.0, False)])
def test_any_wants_one_condition(thickness, matched):
    rule_set = with_conditions("{attribute: SliceThickness, at_most: 2}", "{attribute: SliceThickness, at_least: 8}", group="any")

    (outcome,) = match(rule_set, {"SliceThickness": thickness}, FACTS)

    assert outcome.matched is matched


@pytest.mark.parametrize("guard", ["ours", "results"])
def test_results_never_start_a_job(guard):
    (outcome,) = match(load_text(DESIGN), CHEST, FACTS | {guard: True})

    assert not outcome.matched
    assert "never start a job" in outcome.conditions[0].why


def test_every_rule_has_an_outcome_in_order():
    text = DESIGN + DESIGN.removeprefix("rules:\n").replace("chest CT, lungs", "second").replace("is: CT", "is: MR")

    assert [(one.rule.name, one.matched) for one in match(load_text(text), CHEST, FACTS)] == [
        ("chest CT, lungs", True),
        ("second", False),
    ]


def test_outcomes_are_json_without_a_value_that_may_identify():
    canary = "CANARY^NAME"
    keywords = ["PatientName", "PatientID", "AccessionNumber", "SeriesDescription", "StudyDate", "SeriesInstanceUID"]
    rule_set = with_conditions(
        *(f"{{attribute: {keyword}, is: other}}" for keyword in keywords),
        "{attribute: PatientName, matches: '^C'}",
        "{expression: \"PatientName == 'other'\"}",
    )

    for value in (canary, Varying((canary, canary + "2"))):
        (outcome,) = match(rule_set, dict.fromkeys(keywords, value), FACTS)
        assert "CANARY" not in json.dumps(outcome.as_json())


def test_no_attribute_that_identifies_is_shown():
    physics = {"EchoTime", "RepetitionTime", "InversionTime", "ManufacturerModelName"}
    identifying = ("UID", "Date", "Time", "Name", "ID", "Number", "Description", "Comments")

    assert {name for name in SHOWN if name.endswith(identifying)} == physics


def test_the_digest_is_of_what_the_rules_say():
    commented = "# who, when\n" + DESIGN.replace("[pacs]", "\n      - pacs").replace("is: CT", "is: 'CT'")

    assert load_text(DESIGN).digest == load_text(commented).digest
    assert load_text(DESIGN).digest != load_text(DESIGN.replace("20", "21")).digest
    assert len(load_text(DESIGN).digest) == 64


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "{attribute: BodyPart, is: CHEST}",
            "line 5, rule 'one': expected a DICOM keyword or fact after attribute, did you mean 'BodyPartExamined'?",
        ),
        ("{attribute: modality, is: CT}", "did you mean 'Modality'?"),
        ("{attribute: Modality/CodeValue, is: CT}", "expected a sequence before each /"),
        ("{attribute: Modality, iss: CT}", "did you mean 'is'?"),
        ("{attribute: Modality, is: 3}", "expected text (in quotes"),
        ("{attribute: Modality, is: NO}", "expected text (in quotes"),
        ("{attribute: Modality, is: ''}", "expected text"),
        ("{attribute: Modality, at_least: 3}", "expected a whole number or a number for at_least; Modality has text"),
        ("{attribute: SliceThickness, at_most: thin}", "expected a number"),
        ("{attribute: SliceThickness, at_most: .inf}", "expected a number"),
        ("{attribute: SliceThickness, at_most: true}", "expected a number"),
        ("{attribute: Rows, at_most: 2.5}", "expected a whole number"),
        ("{attribute: Rows, is: 99999999999999999999}", "expected a whole number"),
        ("{attribute: SliceThickness, between: [3, 1]}", "expected the lower number first"),
        ("{attribute: SliceThickness, between: [1]}", "expected [low, high] after between"),
        ("{attribute: Modality, one_of: CT}", "expected a list of values after one_of"),
        ("{attribute: Modality, one_of: []}", "expected a list of values after one_of"),
        ("{attribute: Modality, exists: 1}", "expected true or false"),
        ("{attribute: PixelData, is: 1}", "PixelData has nothing to compare"),
        ("{attribute: Modality, matches: '(a'}", "expected a regular expression (RE2 syntax)"),
        ("{attribute: Modality, matches: '(?=a)b'}", "expected a regular expression (RE2 syntax)"),
        ("{attribute: Modality, matches: '(a)\\1'}", "expected a regular expression (RE2 syntax)"),
        ("{attribute: Modality, matches: '((a{100}){100}){100}'}", "expected a regular expression (RE2 syntax)"),
        ("{attribute: Modality}", "expected {attribute: KEYWORD, OPERATOR: VALUE}"),
        ("{attribute: Modality, is: CT, is_not: MR}", "expected {attribute: KEYWORD, OPERATOR: VALUE}"),
        ("{attribute: Modality, attribute: Rows}", "expected {attribute: KEYWORD, OPERATOR: VALUE}"),
        ("{}", "expected {attribute: KEYWORD, OPERATOR: VALUE}"),
        ("just words", "expected {attribute: KEYWORD, OPERATOR: VALUE}"),
        ("{fact: slice, at_least: 2}", "did you mean 'slices'?"),
        ("{fact: regular, is: yes please}", "expected true or false"),
        ("{expression: \"Modalty == 'CT'\"}", "undeclared reference to 'Modalty'"),
        ("{expression: 'Rows == 2.5'}", "no matching overload"),
        ("{expression: 'Rows'}", "expected an expression that is true or false"),
        ("{expression: \"Modality == 'CT' && Modality.matches('(a')\"}", "expected a regular expression"),
        ("{expression: 3}", "expected CEL in quotes"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_line_and_what_was_expected(row, expected):
    problem = problem_of(row)

    assert problem.startswith("line 5, rule 'one': expected ")
    assert expected in problem


def test_all_problems_are_told_at_once_in_the_order_of_lines():
    text = DESIGN.replace("Modality", "Modalty").replace("ct_lung", "ct_lun").replace("[pacs]", "[pac]")

    assert problems(text.replace("routine ", "urgent ")) == (
        "line 5, rule 'chest CT, lungs': expected a DICOM keyword or fact after attribute, did you mean 'Modality'?",
        "line 9, rule 'chest CT, lungs': expected pipeline: one of ct_lung, did you mean 'ct_lung'?",
        "line 10, rule 'chest CT, lungs': expected send_to: one of pacs, archive, did you mean 'pacs'?",
        "line 11, rule 'chest CT, lungs': expected priority: one of stat, routine, background",
    )


def test_two_peers_that_are_not_known_are_not_one_that_is_named_twice():
    found = problems(DESIGN.replace("[pacs]", "[pac, archives]"))

    assert found == tuple(
        f"line 10, rule 'chest CT, lungs': expected send_to: one of pacs, archive, did you mean '{near}'?" for near in ("pacs", "archive")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: expected a document that is not empty"),
        ("rules: []", "line 1: expected rules: a list of at least one"),
        ("- a", "line 1: expected a mapping of rules"),
        ("rule: []", "did you mean 'rules'?"),
        ("{{a: b}: c}", "line 1: expected rules"),
        ("rules: [", "line 1: expected YAML: "),
        ("rules: \0", "expected YAML of printable characters"),
        ("rules: &a [*a]", "line 1: expected YAML: no aliases"),
        ("rules: " + "[" * 5000, "line 1: expected YAML: at most 20 levels"),
        ("rules: " + " " * 300_000, "expected at most 262144 characters"),
        ("rules: [" + "{}," * (MAX_RULES + 1) + "]", f"line 1: expected at most {MAX_RULES} rules"),
        (DESIGN.replace("name: chest CT, lungs", "name: 2026-99-99"), "expected plain YAML"),
        (DESIGN.replace("name: chest CT, lungs", "name: !!python/object:os.system x"), "expected plain YAML"),
        (DESIGN.replace("    pipeline: ct_lung\n", ""), "line 2, rule 'chest CT, lungs': expected pipeline: one of ct_lung"),
        (DESIGN.replace("send_to: [pacs]", "send_to: []"), "expected send_to: a list of at least one"),
        (DESIGN.replace("send_to: [pacs]", "send_to: [pacs, pacs]"), "expected each peer once"),
        (DESIGN.replace("pipeline:", "pipline: x\n    pipeline:"), "line 9, rule 'chest CT, lungs': expected name, when"),
        (DESIGN.replace("pipeline:", "name: x\n    pipeline:"), "line 9, rule 'chest CT, lungs': expected name once"),
        (DESIGN + DESIGN.removeprefix("rules:\n"), "line 12, rule 'chest CT, lungs': expected a name of its own"),
        ("rules:\n  - {name: a, when: {all: []}, pipeline: ct_lung, send_to: [pacs]}", "expected all: a list of at least one"),
        ("rules:\n  - {name: a, pipeline: ct_lung, send_to: [pacs]}", "expected all, any or none"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_rule_set_is_refused(text, expected):
    assert any(expected in problem for problem in problems(text))


def test_a_condition_without_a_group_is_told_once():
    text = "rules:\n  - {name: a, when: {attribute: Modality, is: CT}, pipeline: ct_lung, send_to: [pacs]}"

    assert problems(text) == ("line 2, rule 'a': expected all, any or none, with conditions, or otherwise, after when",)


def test_a_catastrophic_pattern_takes_linear_time():
    rule_set = with_conditions("{attribute: SeriesDescription, matches: '^(a+)+$'}")
    started = time.thread_time()

    (outcome,) = match(rule_set, {"SeriesDescription": "a" * 10_000 + "b"}, FACTS)

    assert not outcome.matched
    assert time.thread_time() - started < 0.5


def test_a_runaway_expression_ends():
    many = str(list(range(60)))
    loops = f"{many}.all(a, {many}.all(b, {many}.all(c, {many}.all(d, a + b + c + d + slices >= 0))))"
    started = time.thread_time()

    found = condition(f"{{expression: '{loops}'}}")

    assert not found.held
    assert found.why == "expected true; it has no answer for the values found"
    assert time.thread_time() - started < 2


def test_operands_cannot_break_out_of_their_quotes():
    operand = 'x\\" || true || \\"\' || true'

    found = condition(f'{{attribute: SeriesDescription, is: "{operand}"}}', {"SeriesDescription": "y"})

    assert not found.held


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=40))
def test_any_text_can_be_compared(value):
    row = f"{{attribute: SeriesDescription, is: {json.dumps(value, ensure_ascii=False)}}}"

    assert condition(row, {"SeriesDescription": value}).held
    assert not condition(row, {"SeriesDescription": value + "x"}).held


def test_one_rule_set_serves_many_threads():
    rule_set = load_text(DESIGN)

    def matches(slices):
        return match(rule_set, CHEST, FACTS | {"slices": slices})[0].matched

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(matches, range(400)))

    assert found == [slices >= 20 for slices in range(400)]


# --- Companions: other series of the study beside the one that a rule matches ---

PROSTATE = """\
rules:
  - name: prostate
    when: {all: [{attribute: SeriesDescription, matches: "t2.*tra"}]}
    pipeline: prostate
    companions:
      adc: {all: [{attribute: ImageType, contains: ADC}]}
      dwi: {any: [{attribute: SeriesDescription, is: b1400}]}
    send_to: [pacs]
"""
WANTS = {
    "prostate": Pipeline(
        "1", "m", Needs("MR", companions=(Role("adc"), Role("dwi"), Role("dce", required=False))), lambda *_: ()
    ),
    "prostate_v2": Pipeline("2", "m", Needs("MR", companions=(Role("adc"), Role("pet", Needs("PT")))), lambda *_: ()),
    "ct_lung": Pipeline("1", "m", Needs("CT"), lambda *_: ()),
}


def load_prostate(text=PROSTATE):
    return load(text, pipelines=WANTS, peers=["pacs"])


def test_a_series_is_known_as_a_companion_and_told_why_it_is_not_the_other():
    rules = load_prostate()
    assert rules.keywords == {"SeriesDescription", "ImageType"}

    (outcome,) = match(rules, {"SeriesDescription": "ADC map", "ImageType": ["DERIVED", "PRIMARY", "ADC"]}, FACTS)

    assert (outcome.matched, outcome.roles) == (False, ["adc"])
    dwi = outcome.as_json()["companions"]["dwi"]
    assert (dwi["text"], dwi["line"], dwi["held"]) == ("companion dwi", 7, False)
    assert dwi["conditions"][0]["conditions"][0]["why"] == "expected b1400; the value found is not shown"
    json.dumps(outcome.as_json())


def test_a_result_is_no_companion_and_neither_is_a_series_for_a_rule_that_is_switched_off():
    adc = {"SeriesDescription": "ADC", "ImageType": ["ADC"]}
    off = load_prostate(PROSTATE + "    enabled: false\n")

    assert match(load_prostate(), adc, FACTS | {"results": True})[0].roles == []
    assert match(off, adc, FACTS)[0].roles == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("      dwi: {any", "      b: {any",
         "line 6, rule 'prostate': expected companions: all, any or none, with conditions, for dwi of pipeline prostate"),
        ("      dwi: {any", "      dwi: {all: [{fact: slices, at_least: 2}]}\n      dve: {any",
         "line 6, rule 'prostate': expected companions among adc, dwi, dce, did you mean 'dce'?"),
        ("{any: [{attribute: SeriesDescription, is: b1400}]}", "b1400",
         "line 7, rule 'prostate': expected all, any or none, with conditions, after dwi"),
        ("pipeline: prostate", "pipeline: ct_lung", "line 6, rule 'prostate': expected companions among (there is none)"),
        ("send_to: [pacs]", "send_to: [pacs]\n    canary: {pipeline: prostate_v2, share: 50}",
         "line 9, rule 'prostate': expected companions: all, any or none, with conditions, for pet of pipeline prostate_v2"),
    ],
)  # fmt: skip
def test_companions_that_a_pipeline_needs_or_does_not_know_are_told_with_their_line(old, new, expected):
    with pytest.raises(ConfigError) as error:
        load_prostate(PROSTATE.replace(old, new))

    assert expected in error.value.problems


def test_a_rule_without_companions_that_its_pipeline_needs_is_refused_with_all_of_them():
    with pytest.raises(ConfigError, match=r"line 2, rule 'prostate': expected companions: .* for adc, dwi of pipeline prostate"):
        load_prostate("\n".join(line for line in PROSTATE.splitlines() if "adc" not in line and "dwi" not in line
                                and "companions" not in line))  # fmt: skip


def test_rules_that_a_changed_pipeline_needs_more_of_hold_its_series_and_not_the_others():
    one, without = (
        PROSTATE.replace("      dwi: {any: [{attribute: SeriesDescription, is: b1400}]}\n", ""),
        CHEST | {"ImageType": "ADC"},
    )
    rules = load_taken(one + DESIGN.removeprefix("rules:\n"), pipelines=WANTS, peers=["pacs"], version=1)

    prostate, chest = match(rules, without | {"SeriesDescription": "t2_tra"}, FACTS)
    assert (prostate.refused, prostate.roles, chest.matched) == (True, [], True)
    assert prostate.conditions[-1].why.endswith("for dwi of pipeline prostate")


def test_companions_are_part_of_what_rules_say():
    assert load_prostate().digest != load_prostate(PROSTATE.replace("b1400", "b1000")).digest
