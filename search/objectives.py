"""What a search optimises: the task's metric first, then costs, each made as small as it goes.

    params       numbers trained                                      known before training
    flops        forward, one sample                                  known before training
    state_bytes  what one sequence keeps while it is decoded, fp32    known before training
    peak_bytes   memory that training took (on a CPU: growth of the process's resident set)
    latency      seconds of one forward pass of the trained module: evaluation mode, no gradients,
                 batch 1, on the search's device and with the trial's threads; the median of 21
                 passes after 5 that do not count; on a GPU replays of a captured pass
    decode_latency  seconds of one decoded token, likewise; a model that cannot decode pays a whole
                 forward pass

The last three are measured, so a search over one of them is not reproducible number for number.
"""

from collections.abc import Mapping, Sequence

from grammar.errors import StudyError, did_you_mean

STATIC = ("params", "flops", "state_bytes")
MEASURED = ("peak_bytes", "latency", "decode_latency")
COSTS = (*STATIC, *MEASURED)


def objectives_of(asked: str | None, metric: str) -> tuple[str, ...]:
    """`asked`, names with commas between, as a tuple; empty where only the metric is asked for.

    Raises: StudyError naming what there is.
    """
    if asked is None:
        return ()
    names = [word.strip() for word in asked.split(",")]
    known = (metric, *COSTS)
    for name in names:
        if name not in known:
            raise StudyError(
                f"there is no objective {name!r}",
                hint=f"{did_you_mean(name, known)} There are {', '.join(known)}",
            )
    if names[0] != metric:
        raise StudyError(
            f"the first objective is {names[0]!r}, not the task's metric {metric!r}",
            hint=f"--objective {','.join((metric, *(n for n in names if n != metric)))}",
        )
    if len(set(names)) < len(names):
        raise StudyError(f"an objective stands twice in {asked!r}", hint="name each once")
    return tuple(names) if len(names) > 1 else ()


def values_of(
    names: Sequence[str], value: float, costs: Mapping[str, float]
) -> tuple[float, ...] | None:
    """The objectives' values in order; None where one was not measured."""
    if any(name not in costs for name in names[1:]):
        return None
    return (value, *(float(costs[name]) for name in names[1:]))
