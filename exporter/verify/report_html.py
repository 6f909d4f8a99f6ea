"""Write the HTML report: numbers to coordinates and colours; `report.html.jinja` has the page."""

import math
from pathlib import Path

import jinja2

from exporter.verify.inspection import scheme
from exporter.verify.positions import positions, worst_positions
from exporter.verify.verify import Verification

TEMPLATE = Path(__file__).parent / "report.html.jinja"
WIDTH, HEIGHT = 900, 180  # of the plot
_SMALLEST_DECADE = -6


def to_html(result: Verification) -> str:
    """Write the report as one file: no scripts, nothing from outside; every text is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    listed = list(positions(result.readings))
    scale = _Scale([p["kl"] for p in listed])
    return template.render(
        result=result,
        scheme=scheme(result.subject.artifact),
        plot=_plot(listed, scale, result.readings.limits.mean_kl),
        prompts=_texts(listed, scale),
        worst=worst_positions(result.readings),
        parts=_bars([(part.name, part.error) for part in result.parts]),
        weights=_bars([(e.name, e.error / e.limit) for e in result.weights]),
    )


class _Scale:
    """KL on a logarithmic axis, from the smallest decade shown to the largest needed."""

    def __init__(self, values: list[float | None]):
        largest = max((v for v in values if v), default=1.0)
        self.top = max(_SMALLEST_DECADE + 2, math.ceil(math.log10(largest)))
        smallest = min((v for v in values if v), default=1e-3)
        self.bottom = max(_SMALLEST_DECADE, min(self.top - 2, math.floor(math.log10(smallest))))

    def share(self, value: float | None) -> float:
        """Return the height of a value, 0 at the bottom to 1 at the top; 1 for what is not finite."""
        if value is None:
            return 1.0
        decade = math.log10(max(value, 10.0**self.bottom))
        return min(1.0, (decade - self.bottom) / (self.top - self.bottom))


def _plot(listed: list[dict], scale: _Scale, limit: float) -> dict:
    """Return the coordinates of the plot of KL by position: dots, a line where prompts begin, the grid."""
    step = WIDTH / max(1, len(listed))
    dots, borders = [], []
    for i, p in enumerate(listed):
        if i and p["prompt"] != listed[i - 1]["prompt"]:
            borders.append(round(i * step, 1))
        said = "not finite" if p["kl"] is None else f"{p['kl']:.4g}"
        dots.append({
            "x": round((i + 0.5) * step, 1),
            "y": round(HEIGHT * (1 - scale.share(p["kl"])), 1),
            "other": p["float_choice"] != p["artifact_choice"],
            "title": f"position {i} after {p['text']!r}: KL {said}",
        })  # fmt: skip
    grid = [{"y": round(HEIGHT * (1 - scale.share(10.0**d)), 1), "label": f"1e{d}"}
            for d in range(scale.bottom, scale.top + 1)]  # fmt: skip
    line = round(HEIGHT * (1 - scale.share(limit)), 1)
    return {"width": WIDTH, "height": HEIGHT, "dots": dots, "borders": borders, "grid": grid,
            "limit": line}  # fmt: skip


def _texts(listed: list[dict], scale: _Scale) -> list[list[dict]]:
    """Return each prompt's tokens; a token's colour is the KL of its prediction, by the token before."""
    prompts: dict[int, list[dict]] = {}
    before: dict | None = None
    for p in listed:
        first = before is None or before["prompt"] != p["prompt"]
        strength = 0.0 if first else scale.share(before["kl"])
        title = "first token" if first else f"KL {before['kl']}"
        prompts.setdefault(p["prompt"], []).append(
            {"text": p["text"], "strength": round(strength**2, 3), "title": title}
        )
        before = p
    return list(prompts.values())


def _bars(values: list[tuple[str, float]]) -> list[dict]:
    """Return horizontal bars in the model's order, as shares of the largest."""
    largest = max((v for _, v in values if math.isfinite(v)), default=0.0) or 1.0
    return [
        {"name": name, "value": f"{value:.4g}",
         "share": round(min(1.0, value / largest), 4) if math.isfinite(value) else 1.0}
        for name, value in values
    ]  # fmt: skip
