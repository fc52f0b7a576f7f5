"""Weights of alternatives: what share of the draws each one gets."""

import math
from collections.abc import Mapping

from grammar.ast import Alt, Choice, Expr, Name, Number
from grammar.errors import SpaceError


def _weight(alt: Alt, lets: Mapping[str, Expr]) -> float | None:
    weight = alt.weight
    if weight is None:
        return None
    if isinstance(weight, Name):
        body = lets.get(weight.id)
        if not isinstance(body, Number):
            raise SpaceError(
                f"the weight '{weight.id}' is not a let number",
                span=weight.span,
                hint=f"write: let {weight.id} = 0.5;",
            )
        value = body.value
    else:
        value = weight.value
    if not math.isfinite(value) or value <= 0:
        raise SpaceError(f"the weight {value:g} is not positive", span=weight.span, hint="use > 0")
    return float(value)


def weights(choice: Choice, lets: Mapping[str, Expr]) -> tuple[float, ...]:
    """The probability of each alternative.

    All weighted: relative. Some: they sum to less than 1, the others share the rest. None: equal.
    Raises: SpaceError for weights that are not positive, or leave nothing for the others.
    """
    given = [_weight(alt, lets) for alt in choice.alts]
    known = [w for w in given if w is not None]
    total = sum(known)
    if len(known) == len(given):
        return tuple(w / total for w in known)
    if total >= 1:
        raise SpaceError(
            f"the weights sum to {total:g} and leave nothing for the other alternatives",
            span=choice.span,
            hint="let them sum to less than 1, or weight every alternative",
        )
    rest = (1 - total) / (len(given) - len(known))
    return tuple(rest if w is None else w for w in given)
