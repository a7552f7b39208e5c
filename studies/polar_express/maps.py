"""C8, C9, C11-C13 and C21: claims about the scalar maps of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from matfn import NewtonSchulz, PolarExpress, Polynomial, Schedule, Tuned
from studies.page import number
from studies.polar_express.composition import composed
from studies.verdict import Verdict, judged

__all__ = ["STEPS", "SYNTHETIC", "first_steps", "methods", "outlier", "reached", "spectral", "told", "verdicts"]

Array = np.ndarray
STEPS = 20
SYNTHETIC = np.geomspace(1e-6, 1, 4001)  # Figure 3, left
BAND = np.geomspace(1e-3, 1, 20001)


def told(lower: float, degree: int = 5, steps: int = STEPS) -> PolarExpress:
    """Polar Express with a given lower bound, as Figure 3 draws it: no cushion, no safety factor."""
    return PolarExpress(degree=degree, steps=steps, lower=lower, cushion=0, safety=1)


def methods(lower: float) -> dict[str, Schedule]:
    """The curves of Figure 3 for a spectrum of the least value `lower`, twenty steps each."""
    known = {
        "Newton-Schulz 5": NewtonSchulz(5, STEPS),
        "Jordan": Tuned("jordan", steps=STEPS),
        "PE, l right": told(lower),
        "PE, l 100x too small": told(lower / 100),
        "PE, l 100x too large": told(min(lower * 100, 0.9)),
        "PE, l = 1e-3 as in training": PolarExpress(steps=STEPS),
    }
    return {name: method.schedule() for name, method in known.items()}


def spectral(schedule: Schedule, s: Array) -> list[float]:
    """The spectral error after each step: the largest |1 - p| over singular values."""
    return [float(np.abs(1 - y).max()) for y in schedule.trace(s)]


def first_steps() -> dict[str, Polynomial]:
    """The first step for [.005, 1] (Figure 7): raw, cushioned and centred again, and divided by 1.01 too."""
    raw, cushioned = (Polynomial(composed(2, lower=0.005, kappa=kappa)[0]) for kappa in (0.0, None))
    divided = PolarExpress(lower=0.005).schedule().rows[0]
    assert isinstance(divided, Polynomial)
    return {"minimax": raw, "with cushion, centred again": cushioned, "and divided by 1.01": divided}


def outlier(z: float) -> Polynomial:
    """The cubic of appendix I: p(w) = p(z) = 1 for w = sqrt(1 - z^2), the bound of all values but the first."""
    w = float(np.sqrt(1 - z**2))
    scale = z * w * (2 * z**2 - 1)
    return Polynomial(((z**2 * (z + w) - w) / scale, (w - z) / scale))


def verdicts(curves: Mapping[str, Sequence[float]]) -> Iterator[Verdict]:
    """The claims; `curves` are the spectral errors of `methods(1e-6)` on `SYNTHETIC`."""
    yield from _left(curves)
    yield _wrong_by_ten()
    yield _stabilised()
    yield _overshoot()
    yield _bands()
    yield _rivals()
    yield from _outliers()


def _below(errors: Sequence[float], others: Sequence[float], begin: int = 11) -> int:
    """The first T >= begin with a smaller error."""
    return next((t for t in range(begin, STEPS + 1) if errors[t - 1] < others[t - 1]), STEPS + 1)


def reached(errors: Sequence[float] | Array, level: float) -> int:
    """The first T with an error of at most `level`; `STEPS` + 1 if none is."""
    return next((t for t, e in enumerate(errors, 1) if e <= level), STEPS + 1)


def _left(curves: Mapping[str, Sequence[float]]) -> Iterator[Verdict]:
    jordan, newton = curves["Jordan"], spectral(NewtonSchulz(5, 40).schedule(), SYNTHETIC)
    right, small, large = (curves[f"PE, l {word}"] for word in ("right", "100x too small", "100x too large"))
    spread = max(abs(e - 0.318) for e in jordan[10:])
    yield judged(
        "C8",
        "Figure 3 left: Jordan's plateau is .3 from step 11 on",
        ".318 within .002 for T = 11 .. 20; > .7 at T = 10",
        f"{min(jordan[10:]):.4f} to {max(jordan[10:]):.4f}; {jordan[9]:.3f}",
        spread <= 2e-3 and jordan[9] > 0.7,
    )
    yield judged(
        "C8",
        "Figure 3 left: Newton-Schulz idles for 17 steps",
        "error .956 within .005 at T = 17",
        f"{newton[16]:.4f}",
        abs(newton[16] - 0.956) <= 5e-3,
    )
    yield judged(
        "C8",
        "Figure 3 left: PE told sigma_min is excellent after 11 steps",
        "<= 1.2e-4 at T = 11, <= 1e-11 at T = 12",
        f"{right[10]:.2e}, {right[11]:.0e}",
        right[10] <= 1.2e-4 and right[11] <= 1e-11,
    )
    need = {level: (reached(right, level), reached(newton, level)) for level in (0.1, 1e-3, 1e-6)}
    ratios = [slow / fast for fast, slow in need.values()]
    yield judged(
        "C8",
        "PE needs about half the steps of Newton-Schulz of the same degree",
        "ratio of steps 1.7 to 2.3 for errors .1, 1e-3, 1e-6",
        ", ".join(f"{slow}/{fast}" for fast, slow in need.values()),
        min(ratios) >= 1.7 and max(ratios) <= 2.3,
    )
    yield judged(
        "C8",
        "Figure 3 left: with l off by 100x Jordan leads until step 13 or 14",
        "l = 1e-8 first better at T = 13, l = 1e-4 at T = 14",
        f"{_below(small, jordan)}, {_below(large, jordan)}",
        _below(small, jordan) == 13 and _below(large, jordan) == 14,
    )
    yield judged(
        "text 6",
        "a wrong l costs steps, never convergence",
        "error <= 1e-14 after 20 steps, l off by 100x either way",
        f"{small[-1]:.0e}, {large[-1]:.0e}",
        max(small[-1], large[-1]) <= 1e-14,
    )


def _wrong_by_ten() -> Verdict:
    need = {f: reached(spectral(told(1e-3 * f).schedule(), BAND), 1e-6) for f in (1.0, 0.1, 10.0)}
    extra = {f: need[f] - need[1.0] for f in (0.1, 10.0)}
    return judged(
        "text 7",
        "l wrong by 10x costs a few steps",
        "at most 3 more steps to 1e-6 on [1e-3, 1]",
        f"{need[1.0]} steps with l = 1e-3; {extra[0.1]:+d} with l = 1e-4, {extra[10.0]:+d} with l = 1e-2",
        min(extra.values()) >= 0 and max(extra.values()) <= 3,
    )


def _stabilised() -> Verdict:
    raw, _, divided = first_steps().values()
    a, b, c = (float(x) for x in raw.coefficients)
    slope, x = a + 3 * b + 5 * c, np.linspace(0.005, 1.01, 100001)
    at_minimum = float(divided(divided.critical(2, 0.005, 1.01).max() ** 2))
    top, allowed = float((x * divided(x**2)).max()), PolarExpress(lower=0.005).schedule().intervals[1][1]
    return judged(
        "C9",
        "Figure 7, [.005, 1]: slope 25 at the right end; stabilised p(x)/x is .236 at the local minimum of p, and "
        "p <= u_2 up to 1.01",
        "25.46 within .01; .2358 within 5e-4; max p on x <= 1.01 not above u_2",
        f"{slope:.3f}; {at_minimum:.4f} (raw least {raw(x**2).min():.4f}); max {top:.6f}, u_2 {allowed:.6f}",
        abs(slope - 25.46) <= 0.01 and abs(at_minimum - 0.2358) <= 5e-4 and top <= allowed + 1e-13,
    )


def largest_start(safety: float) -> float:
    """The largest x from which forty steps converge, by bisection."""
    schedule = PolarExpress(steps=40, safety=safety).schedule()
    low, high = 1.0, 1.2
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if abs(schedule(np.float64(middle)) - 1) <= 1e-9 else (low, middle)
    return low


def _overshoot() -> Verdict:
    expected = {1.0: 1.0000041, 1.01: 1.01092, 1.02: 1.02184, 1.05: 1.05468}
    found = {safety: largest_start(safety) for safety in expected}
    near = all(abs(found[s] - e) <= (1e-6 if s == 1 else 1e-4) for s, e in expected.items())
    return judged(
        "C11",
        "largest start that converges, by safety factor",
        "1.0000041 (1e-6), 1.01092, 1.02184, 1.05468 (1e-4)",
        ", ".join(f"{value:.7g}" for value in found.values()),
        near,
    )


def _bands() -> Verdict:
    five, six, seven = (PolarExpress(steps=t).schedule() for t in (5, 6, 7))
    (low, high), (low6, high6) = five.images()[-1], six.images()[-1]
    last, tail = seven.error(), float(five(1e-4))
    held = low >= 0.846 and high <= 1.124 and low6 >= 0.994 and high6 <= 1.0012 and last <= 2e-5
    return judged(
        "C12",
        "image of [1e-3, 1] after 5, 6, 7 steps; 1e-4 after 5",
        "[.846, 1.124]; [.994, 1.0012]; 2e-5; .0975",
        f"[{low:.4f}, {high:.4f}]; [{low6:.4f}, {high6:.4f}]; {last:.1e}; {tail:.4f}",
        held and abs(tail - 0.0975) <= 5e-5,
    )


def worst_errors() -> dict[str, float]:
    """The worst errors on [1e-3, 1] of C13."""
    known = {
        "PE": PolarExpress(), "Jordan": Tuned("jordan"), "You": Tuned("you"), "NS5": NewtonSchulz(5, 5),
        "PE, 6 steps": PolarExpress(steps=6), "You, 6 steps": Tuned("you6"),
    }  # fmt: skip
    return {name: method.schedule().error() for name, method in known.items()}


def _rivals() -> Verdict:
    e = worst_errors()
    held = e["PE"] <= 0.16 and min(e["Jordan"], e["You"]) >= 0.52 and e["NS5"] >= 0.97
    held = held and e["PE, 6 steps"] <= 0.006 and abs(e["You, 6 steps"] - 0.134) <= 1e-3
    return judged(
        "C13",
        "worst error on [1e-3, 1] beats the rivals'",
        "5 steps: PE <= .16, Jordan, You >= .52, NS5 >= .97; 6 steps: PE <= .006, You .134",
        ", ".join(f"{name} {number(error)}" for name, error in e.items()),
        held,
    )


def _outliers() -> Iterator[Verdict]:
    s = np.arange(1, 33) ** -5.0
    s /= np.linalg.norm(s)
    z, cubic = float(s[0]), outlier(float(s[0]))
    w = float(np.sqrt(1 - z**2))
    image = s * cubic(s**2)
    growth = image[1:] / s[1:]
    held = abs(growth[0] - 31.7252) <= 5e-4 and image.max() <= 1 + 1e-12 and abs(cubic(1.0) - 0.96991) <= 5e-5
    yield judged(
        "C21",
        "appendix I, sigma_j = j^-5, n = 32: the cubic lifts all values but the first",
        "z = .999503; sigma_2 x31.7252; every growth >= 1/w; max <= 1; p(1) = .96991",
        f"{z:.6f}; x{growth[0]:.4f}; least growth {growth.min():.4f}, 1/w {1 / w:.4f}; {image.max():.6f}; "
        f"{cubic(1.0):.5f}",
        bool(held and growth.min() >= 1 / w * (1 - 1e-12)),
    )
    express = PolarExpress(lower=1e-4).schedule()
    plain, both = express(s), s * cubic(s**2)
    for row in express.rows[:4]:
        both = both * row(both**2)
    cosines = [float(x.mean() / np.sqrt((x**2).mean())) for x in (plain, both)]
    lost = [int((np.abs(1 - x) > 0.2).sum()) for x in (plain, both)]
    yield judged(
        "C21",
        "counted as one step, the cubic pays: cubic and 4 steps against 5 steps, same matrix",
        "higher cosine, fewer values beyond .2 of 1",
        f"cosine {cosines[1]:.4f} against {cosines[0]:.4f}; {lost[1]} against {lost[0]} of 32 values",
        cosines[1] > cosines[0] and lost[1] < lost[0],
    )
