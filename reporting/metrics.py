"""Which figures are shown of groups side by side, by what names."""

from reporting.groups import METRICS, Group

SAME = {"top1": "top-1 = balanced accuracy"}  # on balanced test sets


def metrics_of(groups: list[Group]) -> dict[str, str]:
    """METRICS; where all test sets are balanced, as far as is known, top-1 and balanced accuracy as one."""
    known = {run.balanced for group in groups for run in group.runs} - {None}
    return METRICS if known != {True} else {k: v for k, v in (METRICS | SAME).items() if k != "balanced"}


def metric_beside(groups: list[Group]) -> str:
    """That of `metrics_of` beside which published figures stand."""
    return groups[0].metric if groups[0].metric in metrics_of(groups) else "top1"


def sources(groups: list[Group]) -> str:
    """Whose the groups' published figures are, to end a caption; empty without any."""
    papers = [(group.paper.source, group.method) for group in groups if group.paper]
    names = {source: dict.fromkeys(method for other, method in papers if other == source) for source, _ in papers}
    return "".join(f"; published by {source}: {', '.join(methods)}" for source, methods in names.items())
