"""The first lines of the page: what came out, and whether it beats the floor."""

from collections.abc import Iterator

from reporting.groups import METRICS, Group
from reporting.means import Figure
from reporting.protocol import intermediate
from reporting.tables import sections, show

_SETTINGS = 3  # that are told; of more, how many there are


def headline(groups: list[Group]) -> str:
    """What came out, in one sentence: in each setting the method with the highest figure, and the next one. Then
    `floor_verdict`.
    """
    sentences = []
    for heading, here in _settings(groups):
        found = _figures(here, here[0].metric)
        ranked = sorted(found, key=lambda name: -found[name].mean)
        if not ranked:
            continue
        words = f"{ranked[0]} reaches {show(found[ranked[0]])} % {METRICS[here[0].metric]} on {heading}"
        if len(ranked) > 1:
            words += f", {found[ranked[0]].mean - found[ranked[1]].mean:.2f} points above {ranked[1]}"
        sentences.append(words)
    if not sentences:
        return "No run here is finished and tells its arguments, so that none can be compared."
    more = f"; {len(sentences) - _SETTINGS} more below" if len(sentences) > _SETTINGS else ""
    return f"Mean of the last epochs: {'; '.join(sentences[:_SETTINGS])}{more}. {floor_verdict(groups)}".rstrip()


def floor_verdict(groups: list[Group]) -> str:
    """In each setting that has both: whether the best floor's balanced accuracy is at least that of the best other
    method, and by how much they differ. Every floor that wins is told; of the others three. Empty without any.
    """
    won, lost = [], []
    for heading, here in _settings(groups):
        floors, others = (
            _figures([one for one in here if one.labelled_only is kind], "balanced") for kind in (True, False)
        )
        if not others:  # then the longest way is labelled-only training
            others = {name: floors.pop(name) for name in [n for n in floors if n.startswith("supervised")]}
        if not (floors and others):
            continue
        floor, best = (max(found, key=lambda name, found=found: found[name].mean) for found in (floors, others))
        points = others[best].mean - floors[floor].mean
        reached = f"reaches {show(floors[floor])} % balanced accuracy on {heading}"
        if points <= 0:
            words = f"{-points:.2f} points above" if round(points, 2) else "as much as"
            won.append(f"The floor wins: {floor} {reached}, {words} {best}.")
        else:
            lost.append(f"The floor, {floor}, {reached}; {best} is {points:.2f} points above it.")
    return " ".join(won + lost[:_SETTINGS])


def _settings(groups: list[Group]) -> Iterator[tuple[str, list[Group]]]:
    """Each setting's heading, and those of its groups that can be compared."""
    counting = [one for one in groups if one.finished and one.comparable and not intermediate(one.method)]
    yield from ((heading, here) for heading, here, several in sections(counting) if not several)


def _figures(groups: list[Group], metric: str) -> dict[str, Figure]:
    """name -> mean of the last epochs, of those groups that have one."""
    return {one.name: figure for one in groups if (figure := one.figures["last_20_mean"][metric])}
