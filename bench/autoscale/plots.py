"""Pareto fronts and timelines as SVG, written by hand: two kinds of lines need no library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.autoscale.fronts import Point, compute_front
from bench.autoscale.settings import OURS, REFERENCES

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c564b", "#999999", "#bcbd22", "#7f3c8d", "#3969ac")
OUR_COLOUR = "#d55e00"
LEAST_SHARE = 0.7
"""Fronts are drawn from this attainment on."""
Line = Sequence[tuple[float, float]]


def draw_fronts(title: str, points: Sequence[Point], most_hours: float) -> str:
    """Return an SVG of attainment over GPU-hours, one line for each policy's front."""
    policies = list(dict.fromkeys(point.policy for point in points))
    lines: list[tuple[str, str, Line]] = []
    colours = iter(COLOURS * 2)
    for policy in policies:
        front = compute_front(point for point in points if point.policy == policy)
        line = [(p.gpu_hours, p.attainment * 100) for p in front if p.attainment >= LEAST_SHARE]
        colour = OUR_COLOUR if policy == OURS else "#000000" if policy in REFERENCES else next(colours)
        lines.append((policy, colour, [(x, y) for x, y in line if x <= most_hours]))
    return _draw(title, "GPU-hours", "requests within both objectives, %", lines, (0.0, most_hours), (70.0, 100.0))


def draw_timeline(title: str, series: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Return an SVG of replicas over seconds, one line for each policy."""
    colours = (OUR_COLOUR, "#000000", *COLOURS)
    lines: list[tuple[str, str, Line]] = [
        (name, colours[i], [(float(second), float(n)) for second, n in _thin(numbers)])
        for i, (name, numbers) in enumerate(series)
    ]
    longest = max((len(numbers) for _, numbers in series), default=1)
    highest = max((max(numbers, default=1) for _, numbers in series), default=1)
    return _draw(title, "seconds", "replicas", lines, (0.0, float(longest)), (0.0, float(highest) * 1.1))


def _thin(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the corners of a staircase."""
    corners = []
    for second, number in enumerate(numbers):
        if second == 0 or number != numbers[second - 1]:
            if second:
                corners.append((second, numbers[second - 1]))
            corners.append((second, number))
    return [*corners, (len(numbers), numbers[-1])] if numbers else []


def _draw(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[tuple[str, str, Line]],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
        *_draw_axes(x_label, y_label, x_range, y_range),
    ]
    for index, (name, colour, line) in enumerate(lines):
        width = 3 if colour == OUR_COLOUR else 1.5
        dash = ' stroke-dasharray="5 3"' if name in REFERENCES else ""
        spots = [f"{_place_x(x, x_range):.1f},{_place_y(y, y_range):.1f}" for x, y in line]
        parts.append(
            f'<polyline points="{" ".join(spots)}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
        )
        y = TOP + 10 + 18 * index
        x = WIDTH - RIGHT + 12
        parts += [
            f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{colour}" stroke-width="{width}"{dash}/>',
            f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>',
        ]
    return "\n".join((*parts, "</svg>", ""))


def _draw_axes(x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#333"/>']
    for i in range(6):
        x_value = x_range[0] + (x_range[1] - x_range[0]) * i / 5
        y_value = y_range[0] + (y_range[1] - y_range[0]) * i / 5
        x, y = _place_x(x_value, x_range), _place_y(y_value, y_range)
        parts += [
            f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{y_value:.3g}</text>',
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{x_value:.3g}</text>',
        ]
    middle = (TOP + bottom) / 2
    return [
        *parts,
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{escape(y_label)}</text>',
    ]


def _place_x(value: float, x_range: tuple[float, float]) -> float:
    return LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - RIGHT - LEFT)


def _place_y(value: float, y_range: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - BOTTOM - TOP)
