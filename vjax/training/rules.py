"""Values for parameters, chosen by regular expressions over their paths.

A rule is a pair (pattern, value). A pattern must match a parameter's whole path, written
`encoder/blocks/mlp/in/kernel`; the first match wins. Every parameter must be matched and every rule
must be used, so that a renamed module cannot silently lose its weight decay or its sharding.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from vjax.errors import UserError

Rules = Sequence[Sequence[Any]]


def path_name(path: tuple) -> str:
    """A jax key path as `a/b/c`."""
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', key))) for key in path)


def match(rules: Rules, params: Any, what: str, others: Rules = ()) -> Any:
    """The tree of values that `rules` give to `params`.

    Args:
        rules: pairs (pattern, value), first match wins.
        params: a tree of anything; only its paths are read.
        what: the config key of the rules, for the error sentences.
        others: more of them, made for all models: one that is the first match of nothing is no error.

    Raises:
        UserError: a pattern is not a regular expression, a parameter is matched by no rule, or a
            rule is the first match of no parameter.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in (*rules, *others)]
    except re.error as error:
        raise UserError(
            f'config.{what}: {error.pattern!r} is no regular expression: {error}.'
        ) from None
    used = [False] * len(compiled)

    def value_of(path, _):
        name = path_name(path)
        for i, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(name):
                used[i] = True
                return value
        raise UserError(
            f"config.{what} has no rule for the parameter '{name}'; end the list with a rule for "
            f"'.*'."
        )

    # A value may itself be a tuple, so the tree is built from its leaves.
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    values = structure.unflatten([value_of(path, leaf) for path, leaf in leaves])
    for (pattern, _), was_used in zip(compiled[: len(rules)], used, strict=False):
        if not was_used:
            raise UserError(
                f"config.{what}: the rule for '{pattern.pattern}' is the first match of no "
                f'parameter; it is misspelt, or an earlier rule hides it.'
            )
    return values
