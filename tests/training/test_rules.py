import pytest

from vjax.errors import UserError
from vjax.training import rules

PARAMS = {'encoder': {'kernel': 1, 'bias': 2}, 'head': {'kernel': 3}}


def test_first_match_wins_and_values_keep_the_structure():
    values = rules.match([('.*/bias', 0.0), ('head/.*', 0.5), ('.*', 1.0)], PARAMS, 'x')
    assert values == {'encoder': {'kernel': 1.0, 'bias': 0.0}, 'head': {'kernel': 0.5}}


def test_a_pattern_matches_the_whole_path():
    with pytest.raises(UserError, match="no rule for the parameter 'encoder/bias'"):
        rules.match([('kernel', 1.0), ('.*kernel', 1.0)][1:], PARAMS, 'x')


@pytest.mark.parametrize('bad', ['encodr/.*', 'kernel'])
def test_an_unused_rule_is_an_error_that_names_it(bad):
    with pytest.raises(UserError, match=f"optimizer.weight_decay.*'{bad}'"):
        rules.match([(bad, 0.0), ('.*', 1.0)], PARAMS, 'optimizer.weight_decay')


def test_a_rule_hidden_by_an_earlier_one_is_an_error():
    with pytest.raises(UserError, match='an earlier rule hides it'):
        rules.match([('.*', 0.0), ('.*/bias', 1.0)], PARAMS, 'x')


def test_a_broken_regular_expression_is_named():
    with pytest.raises(UserError, match=r"'\(' is no regular expression"):
        rules.match([('(', 0.0)], PARAMS, 'x')


def test_a_tuple_is_one_value():
    values = rules.match([('.*', ('data', ''))], PARAMS, 'x')
    assert values['head']['kernel'] == ('data', '')
