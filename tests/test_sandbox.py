"""The sandbox renders what a template means, and stops what a template must not do."""

from __future__ import annotations

import enum
import time
from datetime import datetime

import pytest

from gamut import sandbox
from gamut.errors import TemplateError
from gamut.sandbox import render


def test_blocks_leave_no_blank_lines() -> None:
    source = "{% for word in words %}\n    {% if word %}\n{{ word }}\n    {% endif %}\n{% endfor %}\nend"
    assert render(source, {"words": ["a", "", "b"]}) == "a\nb\nend"


def test_loops_can_be_left_and_cut_short() -> None:
    source = (
        "{% for n in range(9) %}"
        "{% if n == 1 %}{% continue %}{% endif %}{% if n == 4 %}{% break %}{% endif %}{{ n }}"
        "{% endfor %}"
    )
    assert render(source, {}) == "023"


def test_loop_variables_are_those_of_jinja() -> None:
    source = (
        "{% for x in xs if x != 'b' %}{{ loop.index }}/{{ loop.length }}{{ x }}{{ '' if loop.last else ',' }}"
        "{% else %}none{% endfor %}"
    )
    assert render(source, {"xs": ["a", "b", "c"]}) == "1/2a,2/2c"
    assert render(source, {"xs": []}) == "none"


def test_macros_print_what_they_hold() -> None:
    assert render("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ m(2) ~ m(3) }}", {}) == "[1][2][3]"


def test_tilde_joins_anything() -> None:
    assert render("{{ 'a' ~ 1 ~ none ~ missing ~ xs }}", {"xs": [1]}) == "a1None[1]"


def test_tojson_escapes_neither_html_nor_letters() -> None:
    value = {"b": "<é>", "a": 1}
    assert render("{{ v | tojson }}", {"v": value}) == '{"b": "<é>", "a": 1}'
    assert (
        render("{{ v | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}", {"v": value})
        == '{\n "a": 1,\n "b": "<\\u00e9>"\n}'
    )
    assert render("{{ v | tojson(separators=(',', ':')) }}", {"v": value}) == '{"b":"<é>","a":1}'


def test_the_generation_tag_prints_what_it_marks() -> None:
    assert render("a{% generation %}b{{ x }}{% endgeneration %}c", {"x": 1}) == "ab1c"


def test_namespaces_carry_values_out_of_loops() -> None:
    source = (
        "{% set ns = namespace(self='s', n=0) %}"
        "{% for x in [1, 2] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.self }}{{ ns.n }}"
    )
    assert render(source, {}) == "s3"


def test_the_time_is_the_present() -> None:
    years = {str(datetime.now().year), render("{{ strftime_now('%Y') }}", {}), str(datetime.now().year)}
    assert len(years) <= 2
    assert render("{{ strftime_now('%d')|length }}", {}) == "2"


def test_subclasses_come_as_the_plain_values_that_they_are() -> None:
    class Role(str, enum.Enum):  # noqa: UP042 - StrEnum prints as its value by itself; this one does not.
        USER = "user"

    class Count(int):
        def __str__(self) -> str:
            return "many"

    assert render("{{ role }} {{ n }} {{ ok }}", {"role": Role.USER, "n": Count(3), "ok": True}) == "user 3 True"


def test_an_undefined_value_prints_nothing_but_has_no_parts() -> None:
    assert render("[{{ missing }}]", {}) == "[]"
    with pytest.raises(TemplateError, match=r"^letter: 'missing' is undefined \(line 2\)$"):
        render("\n{{ missing.part }}", {}, name="letter")


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(TemplateError, match=r"^letter, line 3: Expected an expression"):
        render("\n\n{% if %}", {}, name="letter")


def test_an_error_that_the_template_raises_is_passed_on() -> None:
    with pytest.raises(TemplateError, match=r"^template: roles must alternate \(line 1\)$"):
        render("{{ raise_exception('roles must alternate') }}", {})


@pytest.mark.parametrize(
    ("source", "error"),
    [("{{ 1 / 0 }}", "ZeroDivisionError"), ("{{ 'a' + 1 }}", "TypeError"), ("{{ 'a' | nofilter }}", "nofilter")],
)
def test_a_wrong_expression_is_a_template_error(source: str, error: str) -> None:
    with pytest.raises(TemplateError, match=error):
        render(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] ~ (x | attr('__class__')).__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ strftime_now.__code__.co_consts }}",
        "{{ '{0.__class__.__mro__}'.format(x) }}",
        "{{ ('{0.__class__}' | format(x)).__class__ }}",
        "{{ (x.format).__func__.__code__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = x %}",
        "{% set ns = namespace(__class__=x) %}",
        "{% macro m() %}{% endmacro %}{{ m.__class__.__init__ }}{{ m._func.__globals__ }}",
        "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment }}",
        "{{ xs.append(1) }}",
        "{{ d.update(a=1) }}",
        "{% import 'os' as os %}{{ os.environ }}",
        "{% from 'os' import environ %}",
        "{% include '/etc/passwd' %}",
        "{% extends 'base' %}",
    ],
)
def test_there_is_no_way_out(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source, {"x": "text", "xs": [], "d": {}})


def test_the_callers_values_are_not_changed() -> None:
    values = {"xs": [1, [2]]}
    with pytest.raises(TemplateError, match="append"):
        render("{{ xs[1].append(3) }}", values)
    assert values == {"xs": [1, [2]]}


def test_only_json_values_are_let_in() -> None:
    with pytest.raises(TemplateError, match=r"messages\[0\]\.image must be a JSON value .*, got object; convert it"):
        render("", {"messages": [{"image": object()}]})


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000000) %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * ['a'] }}",
        "{{ 10 ** 1000000000 }}",
        "{{ (10 ** 1000000) * (10 ** 3000000) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ ('a' * 9000000).ljust(20000000) | length }}",
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_giant_is_stopped(source: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError, match=r"Range too big|more than 10000000|RecursionError"):
        render(source, {})
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "loop",
    [
        "{% for i in xs %}{% for j in xs %}{% for k in xs %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    ],
)
def test_an_endless_template_is_stopped(loop: str) -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError, match="ran past its time limit"):
        render(loop, {"xs": list(range(10_000))}, seconds=0.2)
    assert time.monotonic() - start < 5


def test_what_is_rendered_within_the_limits_is_whole() -> None:
    text = render("{% for i in range(1000) %}{{ 'a' * 1000 }}{% endfor %}", {})
    assert len(text) == 1_000_000 < sandbox.MAX_CHARS
