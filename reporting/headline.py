"""The first line of the page."""

from reporting.groups import METRICS, Group
from reporting.protocol import intermediate
from reporting.tables import sections, show

_SETTINGS = 3  # that are told; of more, how many there are


def headline(groups: list[Group]) -> str:
    """What came out, in one sentence: in each setting the method with the highest figure, and the next one."""
    told, counting = [], [one for one in groups if one.finished and one.comparable and not intermediate(one.method)]
    for heading, here, several in sections(counting):
        found = {group.name: figure for group in here if (figure := group.figures["last_20_mean"][group.metric])}
        ranked = sorted(found, key=lambda name: -found[name].mean)
        if several or not ranked:
            continue
        words = f"{ranked[0]} reaches {show(found[ranked[0]])} % {METRICS[here[0].metric]} on {heading}"
        if len(ranked) > 1:
            words += f", {found[ranked[0]].mean - found[ranked[1]].mean:.2f} points above {ranked[1]}"
        told.append(words)
    if not told:
        return "No run here is finished and tells its arguments, so that none can be compared."
    more = f"; {len(told) - _SETTINGS} more below" if len(told) > _SETTINGS else ""
    return f"Mean of the last epochs: {'; '.join(told[:_SETTINGS])}{more}."
