"""The first line of the page."""

from reporting.groups import Group
from reporting.tables import sections, show

_SETTINGS = 3  # that are told; of more, how many there are


def headline(groups: list[Group]) -> str:
    """What came out, in one sentence: in each setting the method with the highest top-1, and the next one."""
    told = []
    for heading, here, several in sections([group for group in groups if group.finished and group.comparable]):
        top1 = {group.name: figure for group in here if (figure := group.figures["last_20_mean"]["top1"])}
        ranked = sorted(top1, key=lambda name: -top1[name].mean)
        if several or not ranked:
            continue
        words = f"{ranked[0]} reaches {show(top1[ranked[0]])} % on {heading}"
        if len(ranked) > 1:
            words += f", {top1[ranked[0]].mean - top1[ranked[1]].mean:.2f} points above {ranked[1]}"
        told.append(words)
    if not told:
        return "No run here is finished and tells its arguments, so that none can be compared."
    more = f"; {len(told) - _SETTINGS} more below" if len(told) > _SETTINGS else ""
    return f"Top-1 accuracy, mean of the last epochs: {'; '.join(told[:_SETTINGS])}{more}."
