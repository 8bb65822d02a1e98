import re

import pytest

from tests.system.node import check_node_tests


@pytest.fixture
def script(tmp_path):
    def write(*lines):
        path = tmp_path / "some.test.mjs"
        path.write_text("\n".join(["import { test } from 'node:test'", *lines]))
        return path

    return write


def test_a_failing_test_is_named_with_its_reason(script):
    path = script(
        "test('adds', () => {})",
        "test('goes <wrong>', () => { throw new Error('the reason') })",
    )

    with pytest.raises(AssertionError, match=r"(?s)^goes <wrong>\n.*the reason"):
        check_node_tests(path)


def test_values_reach_the_script(script):
    check = "if (JSON.parse(process.env.VALUES).name !== 'ünï') throw new Error('other')"

    check_node_tests(script(f"test('reads', () => {{ {check} }})"), name="ünï")


def test_a_script_that_cannot_be_read_fails(script):
    with pytest.raises(AssertionError):
        check_node_tests(script("import './missing.mjs'"))


def test_a_script_without_tests_fails(script):
    with pytest.raises(AssertionError, match=re.escape("some.test.mjs has no test")):
        check_node_tests(script())
